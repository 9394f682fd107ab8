"""The baselines: exact where nothing moves, nearer to the target where it does."""

import numpy as np
import pytest

from data_pipeline import synthetic
from flax_heads import baselines, metrics
from tests.moving_face import face_frame

SIZE = 128


@pytest.fixture(scope="module")
def head():
    """One person turned to one side and the other, and straight."""
    motion = synthetic.neutral_motion(3) | {"yaw": np.float32([-0.25, 0.25, 0.0])}
    return synthetic.render(synthetic.sample_identity(4), motion, SIZE)


def test_nearest_frame(head):
    frames, landmarks = head
    targets = landmarks[[2, 0, 1, 1]] + 0.5
    np.testing.assert_array_equal(
        baselines.nearest_frame(frames, landmarks, targets), frames[[2, 0, 1, 1]]
    )


def test_mean_frame():
    photos = np.uint8([[[[0, 10, 255]]], [[[1, 20, 255]]], [[[1, 31, 255]]]])
    mean = baselines.mean_frame(photos, 2)
    assert mean.dtype == np.uint8
    np.testing.assert_array_equal(mean, [[[[1, 20, 255]]]] * 2)


def test_warp_onto_itself_is_the_photo(head):
    frames, landmarks = head
    warped = baselines.piecewise_affine_warp(frames, landmarks, landmarks)
    assert warped.dtype == np.uint8
    np.testing.assert_array_equal(warped, frames)


def test_warp_moves_the_face_and_keeps_the_border(head):
    _, landmarks = head
    photo = face_frame(SIZE)[None]
    points = landmarks[2:]
    warped = baselines.piecewise_affine_warp(photo, points, points + np.float32([5, 3]))
    left, top = np.ceil(points[0, 27:].min(0)).astype(int)
    right, bottom = np.floor(points[0, 27:].max(0)).astype(int)
    inside = photo[0, top:bottom, left:right]
    moved = warped[0, top + 3 : bottom + 3, left + 5 : right + 5]
    # Bilinear samples at whole pixels, but for rounding in the triangles.
    assert np.abs(inside.astype(int) - moved).max() <= 1
    for line in (np.s_[0], np.s_[-1], np.s_[:, 0], np.s_[:, -1]):
        difference = np.abs(warped[0][line].astype(int) - photo[0][line])
        assert difference.mean() < 2


def test_warp_is_scikit_images(head):
    transform = pytest.importorskip("skimage.transform")
    frames, landmarks = head
    middle, end = (SIZE - 1) / 2, SIZE - 0.5
    places = (-0.5, middle, end)
    border = [(x, y) for x in places for y in places if (x, y) != (middle, middle)]
    ours = baselines.piecewise_affine_warp(frames[:1], landmarks[:1], landmarks[2:])
    mapping = transform.PiecewiseAffineTransform.from_estimate(
        np.concatenate([landmarks[2], border]), np.concatenate([landmarks[0], border])
    )
    theirs = transform.warp(
        frames[0], mapping, order=1, mode="edge", preserve_range=True
    )
    assert np.abs(ours[0] - theirs).max() < 0.51


def test_warp_lowers_the_landmark_error(head):
    pytest.importorskip("dlib")
    frames, landmarks = head
    sources, points, targets = frames[:2], landmarks[:2], landmarks[2:]
    error = {}
    for method in (baselines.nearest_frame, baselines.piecewise_affine_warp):
        found, _ = metrics.detect_landmarks(method(sources, points, targets))
        error[method.__name__] = metrics.normalized_mean_error(found, targets)[0]
    assert error["piecewise_affine_warp"] < 0.5 * error["nearest_frame"]


def test_warp_survives_points_that_coincide_or_leave_the_frame(head):
    frames, landmarks = head
    target = landmarks[2:].copy()
    target[0, 60:68] = target[0, 60]  # a mouth shut to a point
    target[0, :3] = [-20, 60], [0, 0], [SIZE - 1, SIZE + 9]
    warped = baselines.piecewise_affine_warp(frames[:1], landmarks[:1], target)
    assert warped.shape == (1, SIZE, SIZE, 3)
    assert warped.std() > 10

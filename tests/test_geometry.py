"""Crops and landmark transforms: round trips, invariances, nothing squashed."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline import geometry, synthetic

FACE = synthetic.landmarks_of(
    synthetic.sample_identity(3), synthetic.neutral_motion(), 256
)[0]

boxes = st.builds(
    geometry.Box,
    left=st.floats(-50, 200),
    top=st.floats(-50, 200),
    side=st.floats(20, 300),
)


def _similarity(angle, scale, shift):
    c, s = scale * np.cos(angle), scale * np.sin(angle)
    return np.array([[c, -s, shift[0]], [s, c, shift[1]]])


@given(boxes, st.sampled_from([64, 100, 256]))
@settings(max_examples=50, deadline=None)
def test_the_boxs_corners_are_the_crops(box, size):
    """In pixel-centre coordinates an edge lies half a pixel before the first centre."""
    corners = np.array([[0, 0], [1, 1]]) * box.side + [box.left, box.top] - 0.5
    expected = [[-0.5, -0.5], [size - 0.5, size - 0.5]]
    np.testing.assert_allclose(
        geometry.to_crop(corners, box, size), expected, atol=1e-2
    )


def test_points_follow_the_pixels():
    """A bright dot lands where its landmark says, also off the integer grid."""
    image = np.zeros((200, 300, 3), np.uint8)
    image[118:123, 78:83] = 255  # centred on (80, 120)
    for box in (
        geometry.Box(30, 60, 100),
        geometry.Box(33.4, 71.7, 90.5),
        geometry.Box(-40, 20, 200),
    ):
        patch = geometry.crop(image, box, 128)[..., 0].astype(float)
        ys, xs = np.mgrid[:128, :128]
        centre = [(patch * xs).sum() / patch.sum(), (patch * ys).sum() / patch.sum()]
        expected = geometry.to_crop(np.array([80.0, 120.0]), box, 128)
        np.testing.assert_allclose(centre, expected, atol=0.15)


def test_crop_of_the_whole_frame_is_the_frame():
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    np.testing.assert_array_equal(
        geometry.crop(image, geometry.whole_frame(64, 64), 64), image
    )


def test_crop_never_shows_anything_but_the_picture():
    """Beyond the border its pixels repeat: no black, no average of black."""
    image = np.full((50, 40, 3), 200, np.uint8)
    patch = geometry.crop(image, geometry.Box(-100, -100, 300), 64)
    assert patch.min() == patch.max() == 200


def test_aspect_ratio_is_kept():
    """A circle stays one in the centred square of a wide frame."""
    ys, xs = np.mgrid[:90, :160]
    disc = ((xs - 80) ** 2 + (ys - 45) ** 2 < 30**2).astype(np.uint8) * 255
    patch = geometry.crop(
        np.repeat(disc[..., None], 3, 2), geometry.whole_frame(160, 90), 64
    )
    inside = patch[..., 0] > 127
    width, height = inside.any(0).sum(), inside.any(1).sum()
    assert abs(width - height) <= 1


@given(st.floats(0.3, 3), st.floats(-100, 100))
@settings(max_examples=30, deadline=None)
def test_head_box_moves_and_scales_with_the_face(scale, shift):
    before = geometry.head_box(FACE)
    after = geometry.head_box(FACE * scale + shift)
    assert after.side == pytest.approx(before.side * scale, rel=1e-3)
    centre = before.left + before.side / 2 - 0.5
    moved = after.left + after.side / 2 - 0.5
    assert moved == pytest.approx(centre * scale + shift, abs=0.1 * max(scale, 1))


def test_head_box_frames_a_head_like_voxceleb():
    box = geometry.head_box(FACE)
    inside = geometry.to_crop(FACE, box, 100)
    extent = inside.max(0) - inside.min(0)
    assert 40 < extent.max() < 70
    assert (inside > 0).all() and (inside < 100).all()


def test_head_box_hardly_changes_with_yaw():
    identity = synthetic.sample_identity(3)
    sides = []
    for yaw in (-0.6, -0.3, 0.0, 0.3, 0.6):
        motion = synthetic.neutral_motion() | {"yaw": np.float32([yaw])}
        points = synthetic.landmarks_of(identity, motion, 256)[0]
        sides.append(geometry.head_box(points).side)
    assert max(sides) / min(sides) < 1.2


def test_following_glides_and_jumps():
    start = geometry.follow_head(None, FACE)
    near = geometry.follow_head(start, FACE + 5)
    assert 0 < near.left - start.left < 1
    twice = geometry.follow_head(start, FACE + 5, 1 / 50)
    twice = geometry.follow_head(twice, FACE + 5, 1 / 50)  # at another rate of frames
    assert twice.left == pytest.approx(near.left) and twice.side == near.side
    far = geometry.follow_head(start, FACE + 400)
    assert far.left - start.left == pytest.approx(400, abs=1e-3)


@given(
    st.floats(-3, 3),
    st.floats(0.2, 5),
    st.tuples(st.floats(-99, 99), st.floats(-99, 99)),
)
@settings(max_examples=50, deadline=None)
def test_similarity_is_recovered(angle, scale, shift):
    matrix = _similarity(angle, scale, shift)
    target = geometry.transform(FACE, matrix)
    fitted = geometry.fit_similarity(FACE.astype(float), target.astype(float))
    np.testing.assert_allclose(fitted, matrix, rtol=1e-3, atol=1e-2)


def test_similarity_of_one_point_is_refused():
    with pytest.raises(ValueError, match="coinciding"):
        geometry.fit_similarity(np.ones((5, 2)), np.ones((5, 2)))


def test_lids_and_lips_that_crossed_touch():
    motion = synthetic.neutral_motion()
    motion["roll"] = np.float32([0.4])
    ((rest,),) = [synthetic.landmarks_of(synthetic.sample_identity(0), motion, 128)]
    upper, lower = [37, 38, 43, 44, 61, 62, 63], [41, 40, 47, 46, 67, 66, 65]
    asked = rest.copy()
    asked[upper] += 1.5 * (rest[lower] - rest[upper])  # beyond what they should meet
    asked[lower[-3:]] -= 2 * (rest[8] - rest[27]) / np.linalg.norm(rest[8] - rest[27])
    (points,) = geometry.uncross(asked[None], rest[None])
    down = (rest[8] - rest[27]) / np.linalg.norm(rest[8] - rest[27])
    assert (((asked[lower] - asked[upper]) @ down) < -0.5).all()
    gap = (points[lower] - points[upper]) @ down
    np.testing.assert_allclose(gap, 0, atol=1e-3)
    others = np.setdiff1d(np.arange(68), upper + lower)
    np.testing.assert_array_equal(points[others], asked[others])
    # What is crossed in the reference may be so, and what is open is left alone.
    for same in (asked, rest):
        np.testing.assert_allclose(geometry.uncross(same[None], same[None])[0], same)


def test_gaps_are_interpolated_and_ends_hold():
    track = np.stack([FACE + i for i in range(6)]).astype(np.float32)
    holed = track.copy()
    holed[[0, 3, 5]] = np.nan
    times = np.array([0.0, 1.0, 2.0, 3.5, 4.0, 5.0])  # of no steady rate
    filled = geometry.fill_gaps(holed, times)
    np.testing.assert_allclose(filled[3], track[2] + 1.5, atol=1e-3)
    np.testing.assert_allclose(filled[0], track[1], atol=1e-3)
    np.testing.assert_allclose(filled[5], track[4], atol=1e-3)


def test_resized_points_point_at_the_same_place():
    points = np.array([[-0.5, -0.5], [63.5, 63.5], [31.5, 31.5]])
    np.testing.assert_allclose(
        geometry.resize_points(points, 64, 256),
        [[-0.5, -0.5], [255.5, 255.5], [127.5, 127.5]],
    )

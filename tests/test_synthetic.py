"""Synthetic heads: deterministic, truly 3-D, and painted where the landmarks say."""

import functools
import importlib.util

import numpy as np
import pytest

from data_pipeline import synthetic
from data_pipeline.synthetic_motion import MOTION_KEYS, MOTION_KINDS

UPPER_LID, LOWER_LID = [37, 38, 43, 44], [41, 40, 47, 46]
MIRROR = np.concatenate([
    np.arange(16, -1, -1),  # jaw
    np.arange(26, 16, -1),  # brows
    np.arange(27, 31),  # bridge
    np.arange(35, 30, -1),  # nostrils
    [45, 44, 43, 42, 47, 46, 39, 38, 37, 36, 41, 40],  # eyes
    [54, 53, 52, 51, 50, 49, 48, 59, 58, 57, 56, 55],  # outer lips
    [64, 63, 62, 61, 60, 67, 66, 65],  # inner lips
])  # fmt: skip


def motion(num_frames=1, **changes):
    """The rest pose with some keys set, each to a number or to F of them."""
    out = synthetic.neutral_motion(num_frames)
    for key, value in changes.items():
        out[key] = np.broadcast_to(np.float32(value), (num_frames,))
    return out


@functools.cache
def still(seed, size=128, **changes):
    person = synthetic.sample_identity(seed) | {"glasses": 0.0}
    frames, landmarks = synthetic.render(person, motion(**changes), size)
    return frames[0], landmarks[0]


def symmetric(seed=0):
    return synthetic.sample_identity(seed) | {"asymmetry": 0.0}


def test_same_seed_same_bytes():
    first = synthetic.make_video(7, 3, 64)
    again = synthetic.make_video(7, 3, 64)
    assert first[0].tobytes() == again[0].tobytes()
    assert first[1].tobytes() == again[1].tobytes()
    assert first[0].shape == (3, 64, 64, 3) and first[0].dtype == np.uint8
    assert first[1].shape == (3, 68, 2) and first[1].dtype == np.float32


def test_no_global_random_state():
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    synthetic.make_video(7, 1, 32)
    np.testing.assert_array_equal(before, np.random.get_state()[1])  # noqa: NPY002


def test_different_seeds_are_different_people():
    frames = [still(seed, 64)[0].astype(int) for seed in range(6)]
    points = [still(seed, 64)[1] for seed in range(6)]
    for a in range(6):
        for b in range(a):
            assert np.abs(frames[a] - frames[b]).mean() > 8
            assert np.abs(points[a] - points[b]).max() > 0.5


@pytest.mark.parametrize("kind", MOTION_KINDS)
def test_motion_is_smooth_and_in_range(kind):
    m = synthetic.sample_motion(3, 200, kind)
    assert tuple(m) == MOTION_KEYS
    for key, values in m.items():
        assert values.shape == (200,) and values.dtype == np.float32, key
        assert np.isfinite(values).all()
    assert np.abs(np.diff(m["yaw"])).max() < 0.08
    assert m["mouth_open"].min() >= 0 and m["mouth_open"].max() <= 1
    assert m["blink"].max() > 0.9 and (m["blink"] == 0).mean() > 0.7
    for key, values in synthetic.sample_motion(3, 50, kind).items():
        np.testing.assert_array_equal(values, m[key][:50], err_msg=key)


def test_motion_kinds_differ_as_told():
    talk, look, expressive = (
        synthetic.sample_motion(5, 500, kind) for kind in ("talk", "look", "expressive")
    )
    assert np.abs(look["yaw"]).max() > 0.4 > np.abs(talk["yaw"]).max()
    assert expressive["mouth_open"].max() > 0.8
    assert np.diff(talk["mouth_open"]).std() > 3 * np.diff(look["mouth_open"]).std()
    with pytest.raises(ValueError, match="kind"):
        synthetic.sample_motion(0, 5, "dance")


def test_landmarks_alone_are_those_of_the_frames():
    person, m = synthetic.sample_identity(4), synthetic.sample_poses(4, 5)
    _, landmarks = synthetic.render(person, m, 48)
    np.testing.assert_array_equal(synthetic.landmarks_of(person, m, 48), landmarks)


def test_framing():
    for seed in range(12):
        m = synthetic.sample_motion(seed, 10, "talk")
        points = synthetic.landmarks_of(synthetic.sample_identity(seed), m, 256)
        assert points.min() > 5 and points.max() < 250
        side = (points.max(1) - points.min(1)).max(1) / 256
        assert 0.38 < side.mean() < 0.60
        centre = (points.max(1) + points.min(1)).mean(0) / 512
        assert np.abs(centre - 0.5).max() < 0.15


def test_mirror_symmetry():
    landmarks = synthetic.landmarks_of(symmetric(), motion(mouth_open=0.3), 128)[0]
    mirrored = landmarks[MIRROR] * [-1, 1] + [127, 0]
    np.testing.assert_allclose(landmarks, mirrored, atol=1e-3)


def test_opposite_turns_mirror():
    left, right = synthetic.landmarks_of(symmetric(), motion(2, yaw=[-0.4, 0.4]), 128)
    np.testing.assert_allclose(left, right[MIRROR] * [-1, 1] + [127, 0], atol=1e-3)


def test_turning_moves_near_points_more():
    m = motion(3, yaw=[-0.3, 0.0, 0.3])
    x = synthetic.landmarks_of(synthetic.sample_identity(1), m, 256)[..., 0]
    travel = x[2] - x[0]
    assert travel[30] > 35
    assert travel[30] > travel[27] > 2 * abs(travel[0])
    # The far half of the face narrows, the near half widens.
    assert x[2, 45] - x[2, 27] < 0.8 * (x[2, 27] - x[2, 36])


def test_turning_hides():
    """The nose passes before the far eye: its white is seen no more."""
    person = symmetric(3) | {"glasses": 0.0}
    frames, points = synthetic.render(person, motion(2, yaw=[0.0, 1.2]), 256)
    assert points[1, 45, 0] < points[1, 30, 0]
    white = patch(frames[0], *points[0, 44:47].mean(0), 1)
    lid = patch(frames[0], *points[0, 43:45].mean(0), 1)
    assert white.sum() > 1.3 * lid.sum()


def test_mouth_opens():
    m = motion(3, mouth_open=[0, 0.5, 1])
    points = synthetic.landmarks_of(symmetric(), m, 256)
    gap = points[:, 66, 1] - points[:, 62, 1]
    assert gap[0] == pytest.approx(0, abs=1e-3)
    assert gap[1] > 8 and gap[2] > 1.8 * gap[1]
    chin = points[:, 8, 1]
    assert chin[2] > chin[1] > chin[0] + 5
    np.testing.assert_allclose(points[0, :5], points[2, :5], atol=12)


def test_blink_closes():
    points = synthetic.landmarks_of(symmetric(), motion(2, blink=[0, 1]), 256)
    opening = points[:, LOWER_LID, 1] - points[:, UPPER_LID, 1]
    assert opening[0].min() > 3
    np.testing.assert_allclose(opening[1], 0, atol=1e-3)


def test_smile_and_brows():
    points = synthetic.landmarks_of(symmetric(), motion(3, smile=[0, 1, 0]), 256)
    assert points[1, 54, 0] - points[1, 48, 0] > points[0, 54, 0] - points[0, 48, 0] + 3
    assert points[1, 48, 1] < points[0, 48, 1] - 2
    points = synthetic.landmarks_of(symmetric(), motion(2, brow=[0, 1]), 256)
    assert (points[1, 17:27, 1] < points[0, 17:27, 1] - 3).all()
    np.testing.assert_allclose(points[1, 27:36], points[0, 27:36], atol=1e-3)


def patch(frame, x, y, radius=2):
    x, y = round(float(x)), round(float(y))
    window = frame[y - radius : y + radius + 1, x - radius : x + radius + 1]
    return window.reshape(-1, 3).astype(float).mean(0)


@pytest.mark.parametrize("seed", range(6))
def test_paint_lies_under_the_landmarks(seed):
    frame, points = still(seed, 256)
    cheek = patch(frame, *(0.5 * (points[30] + points[2])))
    for eye in (slice(36, 42), slice(42, 48)):
        pupil = patch(frame, *points[eye].mean(0), 1)
        assert pupil.sum() < 0.75 * cheek.sum()
    opened, points = still(seed, 256, mouth_open=0.9)
    hollow = patch(opened, *(0.5 * points[62] + 0.5 * points[66]))
    assert hollow.sum() < 0.85 * cheek.sum()
    # The lower lip is redder than the cheek beside it.
    lip = patch(opened, *(0.5 * (points[57] + points[66])))
    assert lip[0] / lip[1] > cheek[0] / cheek[1]


def test_eyes_lean_with_their_landmarks():
    person = synthetic.sample_identity(2) | {"asymmetry": 0.04, "glasses": 0.0}
    (frame,), (points,) = synthetic.render(person, motion(), 256)
    eyes = points[36:42].mean(0), points[42:48].mean(0)
    assert eyes[1][1] - eyes[0][1] > 4
    for x, y in eyes:
        pupil = patch(frame, x, y, 1).sum()
        assert pupil < 0.6 * max(patch(frame, x + d, y, 1).sum() for d in (-8, 8))


def test_chin_is_on_the_outline():
    """Under the chin's point the neck is in shadow: the picture darkens there."""
    for seed in (1, 2, 4):
        frame, points = still(seed, 256)
        x, y = points[8]
        assert patch(frame, x, y - 10).sum() > patch(frame, x, y + 8).sum() + 20


def test_size_changes_only_the_resolution():
    small, at_64 = still(3, 64)
    large, at_128 = still(3, 128)
    np.testing.assert_allclose((at_64 + 0.5) * 2 - 0.5, at_128, atol=1e-3)
    halved = large.reshape(64, 2, 64, 2, 3).astype(float).mean((1, 3))
    assert np.abs(halved - small).mean() < 2.5


def test_any_size_and_far_poses():
    m = motion(3, yaw=[1.2, -1.2, 0], pitch=[0.6, -0.6, 0], shift_x=[0, 0, 3])
    frames, landmarks = synthetic.render(synthetic.sample_identity(2), m, 37)
    assert frames.shape == (3, 37, 37, 3) and np.isfinite(landmarks).all()


def test_dlib_agrees():
    """An independent detector and landmark model see the face where it is."""
    dlib = pytest.importorskip("dlib")
    spec = importlib.util.find_spec("face_recognition_models")
    if spec is None:
        pytest.skip("face_recognition_models is not installed")
    folder = f"{spec.submodule_search_locations[0]}/models/"
    detect = dlib.get_frontal_face_detector()
    predict = dlib.shape_predictor(folder + "shape_predictor_68_face_landmarks.dat")
    errors, total = [], 0
    for seed in range(100, 112):
        m = synthetic.sample_motion(seed, 40, "talk")
        m = {key: values[::20] for key, values in m.items()}
        frames, landmarks = synthetic.render(synthetic.sample_identity(seed), m, 256)
        for frame, points in zip(frames, landmarks):
            total += 1
            boxes = detect(frame, 0)
            if len(boxes):
                parts = predict(frame, boxes[0]).parts()
                seen = np.array([(part.x, part.y) for part in parts])
                between_eyes = np.linalg.norm(points[36] - points[45])
                error = np.linalg.norm(seen - points, axis=1).mean()
                errors.append(error / between_eyes)
    assert len(errors) >= 0.95 * total
    assert np.mean(errors) < 0.06

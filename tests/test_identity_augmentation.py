"""Other people out of those there are: what moves together, and what stays as it was."""

import itertools

import numpy as np
import pytest
from scipy import ndimage

from data_pipeline import face_shape, geometry, synthetic
from data_pipeline import identity_augmentation as augmentation
from data_pipeline.archive import load_archive, render_archive
from data_pipeline.errors import InputError
from data_pipeline.face_shape import MIRRORED
from data_pipeline.identity_augmentation import augment_episode
from data_pipeline.raster import draw_raster

SIZE = 128
FRAMES, LANDMARKS = synthetic.make_video(7, 4, SIZE)


def _augment(seed, frames=FRAMES, landmarks=LANDMARKS, strength=1.0):
    return augment_episode(frames, landmarks, np.random.default_rng(seed), strength)


@pytest.fixture
def plain_colours(monkeypatch):
    same = np.eye(3, dtype=np.float32), np.arange(256, dtype=np.uint8)
    monkeypatch.setattr(augmentation, "_draw_colours", lambda *_: same)


@pytest.fixture
def mirrors(monkeypatch):
    """Whether the episodes augmented so far were mirrored, a list."""
    seen, draw = [], augmentation._draw_view

    def spy(*arguments):
        matrix, mirrored = draw(*arguments)
        seen.append(mirrored)
        return matrix, mirrored

    monkeypatch.setattr(augmentation, "_draw_view", spy)
    return seen


@pytest.fixture
def same_view(monkeypatch):
    still = np.array([[1.0, 0, 0], [0, 1, 0]])
    monkeypatch.setattr(augmentation, "_draw_view", lambda *_: (still, False))


# --- Pixels, landmarks and rasters move together


def _dots(points):
    """One round dot per channel, at points [3, 2]."""
    at = np.arange(SIZE)
    x, y = (np.exp(-((at - p[:, None]) ** 2) / 8) for p in points.T)  # [3, S]
    return np.round(255 * np.einsum("cy,cx->yxc", y, x)).astype(np.uint8)


def _centroids(frame):
    """Where the red, the green and the blue of a frame are. [3, 2]."""
    mass = np.moveaxis(frame.astype(float), 2, 0)
    at = np.arange(len(frame))
    x, y = (mass.sum(1) * at).sum(1), (mass.sum(2) * at).sum(1)
    return np.stack([x, y], 1) / mass.sum((1, 2))[:, None]


def test_dots_painted_at_landmarks_are_found_at_the_new_ones(plain_colours, mirrors):
    errors = []
    for seed, marked in itertools.product(
        range(6), ([30, 36, 54], [8, 45, 51], [4, 12, 27], [0, 16, 66])
    ):
        painted = np.stack([_dots(points[marked]) for points in LANDMARKS])
        frames, points = _augment(seed, painted)
        names = MIRRORED[marked] if mirrors[-1] else marked
        for old, new, frame in zip(LANDMARKS[:, marked], points[:, names], frames):
            seen = [((p > 8) & (p < SIZE - 9)).all(1) for p in (old, new)]
            errors += (
                np.abs(_centroids(frame) - new)[seen[0] & seen[1]].ravel().tolist()
            )
    assert len(errors) > 500 and set(mirrors) == {True, False}
    assert np.max(errors) < 0.6 and np.mean(errors) < 0.15


def test_every_landmark_marks_the_same_of_the_face_as_before(monkeypatch, mirrors):
    """What the new picture shows at a new landmark lay at the old one."""
    shown, sample = [], geometry.sample
    monkeypatch.setattr(
        geometry, "sample", lambda f, *at: shown.append(at) or sample(f, *at)
    )
    errors = []
    for seed in range(6):
        _, points = _augment(seed)
        for old, new in zip(LANDMARKS, points[:, MIRRORED] if mirrors[-1] else points):
            places = np.stack(shown.pop(0))  # [2, S, S]
            order = new[:, ::-1].T  # y, x
            was = [ndimage.map_coordinates(p, order, order=1) for p in places]
            inside = ((new > 0) & (new < SIZE - 1)).all(1)
            errors += np.linalg.norm(np.stack(was, 1) - old, axis=1)[inside].tolist()
    assert len(errors) > 1_000
    assert np.max(errors) < SIZE / 300 and np.mean(errors) < SIZE / 2_000


def test_the_mirrored_face_has_its_parts_in_place():
    assert sorted(MIRRORED) == list(range(68))
    np.testing.assert_array_equal(MIRRORED[MIRRORED], np.arange(68))
    face = synthetic.landmarks_of(
        synthetic.sample_identity(3), synthetic.neutral_motion(), 256
    )[0]
    face[:, 0] -= face[27:31, 0].mean()  # upright and from the front: symmetric
    mirrored = (face * (-1, 1))[MIRRORED]
    assert np.abs(mirrored - face).max() < 6


def test_a_mirrored_face_still_has_its_right_eye_on_the_left_of_the_picture(mirrors):
    for seed in range(8):
        _, points = _augment(seed)
        right, left = points[:, geometry.RIGHT_EYE], points[:, geometry.LEFT_EYE]
        assert (right.mean(1)[:, 0] < left.mean(1)[:, 0]).all()
    assert 1 <= sum(mirrors) <= 7


def test_nothing_folds_in_any_pose(plain_colours):
    """Triangles of neighbouring points keep their orientation, however wild the face."""
    rng = np.random.default_rng(0)
    side = np.linspace(0, SIZE - 1, 64)
    grid = np.stack(np.meshgrid(side, side), -1).reshape(-1, 2)
    nodes = np.stack(np.meshgrid(*[np.linspace(0, SIZE - 1, 17)] * 2), -1).reshape(
        -1, 2
    )
    wild = rng.uniform(0, SIZE, (3, 68, 2)).astype(np.float32)
    for seed, landmarks in itertools.product(range(10), (LANDMARKS, wild)):
        shape = face_shape.draw_shape(np.random.default_rng(seed), 1.0)
        warp = face_shape.Warp(landmarks, shape, nodes)
        moved = warp(np.broadcast_to(grid, (len(landmarks), *grid.shape)))
        moved = moved.reshape(-1, 64, 64, 2)
        right = np.diff(moved, axis=2)[:, :-1]
        down = np.diff(moved, axis=1)[:, :, :-1]
        area = right[..., 0] * down[..., 1] - right[..., 1] * down[..., 0]
        assert area.min() > 0.1 * (SIZE / 64) ** 2


def test_nothing_black_comes_in_from_outside(plain_colours):
    white = np.full_like(FRAMES, 255)
    for seed in range(8):
        assert (_augment(seed, white)[0] == 255).all()


# --- One episode shows one person


def test_an_episode_has_one_map_of_colours(same_view, monkeypatch):
    still = np.zeros((13, 2)), np.zeros((13, 2))
    monkeypatch.setattr(augmentation, "draw_shape", lambda *_: still)
    frames, points = _augment(3)
    np.testing.assert_allclose(points, LANDMARKS, atol=1e-4)
    assert (frames != FRAMES).any()
    known = {}
    for old, new in zip(FRAMES.reshape(-1, 3).tolist(), frames.reshape(-1, 3).tolist()):
        assert np.abs(np.subtract(known.setdefault(tuple(old), new), new)).max() <= 1


def test_the_same_face_changes_the_same_wherever_it_is(same_view):
    """Moved, turned in the plane and enlarged: the change is so, too."""
    linear = 0.8 * np.array([[np.cos(0.3), -np.sin(0.3)], [np.sin(0.3), np.cos(0.3)]])
    matrix = np.concatenate([linear, [[20.0], [-5.0]]], 1)
    other = geometry.transform(LANDMARKS[0], matrix)
    _, (first, second) = _augment(1, FRAMES[:2], np.stack([LANDMARKS[0], other]))
    assert np.abs(first - LANDMARKS[0]).max() > 2
    np.testing.assert_allclose(geometry.transform(first, matrix), second, atol=0.01)


def test_a_wider_face_is_wider_in_every_pose(same_view):
    def width(points):
        return np.linalg.norm(points[:, 13] - points[:, 3], axis=-1)

    motion = synthetic.sample_poses(0, 12)
    motion["yaw"] = np.linspace(-0.5, 0.5, 12).astype(np.float32)
    points = synthetic.landmarks_of(synthetic.sample_identity(1), motion, SIZE)
    frames = np.zeros((12, SIZE, SIZE, 3), np.uint8)
    ratios = []
    for seed in range(6):
        _, moved = _augment(seed, frames, points)
        ratio = width(moved) / width(points)
        assert ratio.std() < 0.05
        ratios.append(ratio.mean())
    assert np.std(ratios) > 0.05


def test_episodes_differ_and_strength_scales_the_change(same_view):
    changes = [np.abs(_augment(seed)[1] - LANDMARKS).mean() / SIZE for seed in range(8)]
    assert min(changes) > 0.005 and max(changes) < 0.06
    half, whole = (np.abs(_augment(2, strength=s)[1] - LANDMARKS) for s in (0.5, 1.0))
    assert 0.3 < half.mean() / whole.mean() < 0.9


# --- As a source of batches


@pytest.fixture(scope="module")
def archive():
    return render_archive(5, 4, 32, seed=1, num_workers=0)


def _take(source, count, start_step=0, strength=1.0, **processes):
    batches = source.batches(
        *(7, start_step, 4, 2), **processes, identity_augmentation=strength
    )
    taken = list(itertools.islice(batches, count))
    batches.close()  # ends the thread
    return taken


def _assert_same(batches, others):
    for batch, other in zip(batches, others, strict=True):
        assert batch.keys() == other.keys()
        for key in batch:
            assert batch[key].dtype == other[key].dtype
            np.testing.assert_array_equal(batch[key], other[key], err_msg=key)


def test_off_is_the_very_same(archive):
    frames, points = _augment(0, strength=0.0)
    assert frames is FRAMES and points is LANDMARKS
    plain = list(itertools.islice(archive.batches(7, 0, 4, 2), 3))
    _assert_same(_take(archive, 3, strength=0.0), plain)
    augmented = _take(archive, 3)
    for batch, other in zip(plain, augmented):
        np.testing.assert_array_equal(batch["video_index"], other["video_index"])
        assert (batch["target_frame"] != other["target_frame"]).any((1, 2, 3)).all()
        assert (batch["target_raster"] != other["target_raster"]).any((1, 2, 3)).all()


def test_a_resumed_run_and_other_processes_see_the_same_people(archive, tmp_path):
    whole = _take(archive, 5)
    _assert_same(_take(archive, 5), whole)
    _assert_same(_take(archive, 2, start_step=3), whole[3:])
    halves = [_take(archive, 5, process_index=p, process_count=2) for p in (0, 1)]
    joined = [
        {key: np.concatenate([first[key], second[key]]) for key in first}
        for first, second in zip(*halves)
    ]
    _assert_same(joined, whole)
    archive.save(tmp_path / "a.npz")
    loaded = load_archive(tmp_path / "a.npz")
    _assert_same(_take(loaded, 2), _take(load_archive(tmp_path / "a.npz"), 2))


def test_the_same_video_comes_back_as_somebody_else(archive):
    by_video = {}
    for batch in _take(archive, 10):
        for video, frame in zip(batch["video_index"].tolist(), batch["target_frame"]):
            by_video.setdefault(video, []).append(frame.astype(float).mean((0, 1)))
    assert all(np.std(colours, 0).max() > 3 for colours in by_video.values())


def test_rasters_are_drawn_from_the_new_landmarks(archive):
    batch = next(archive.batches(7, 0, 4, 2))
    points = np.stack([archive.landmarks[4 * v + np.arange(3)] for v in range(4)])
    made = augmentation.augment_batch(batch, points, 7, 0, 1.0, archive.style)
    rng = np.random.default_rng((7, augmentation.IDENTITY, 2))
    frames = [*batch["support_frames"][2], batch["target_frame"][2]]
    new_frames, new_points = augment_episode(np.stack(frames), points[2], rng, 1.0)
    np.testing.assert_array_equal(made["target_frame"][2], new_frames[2])
    np.testing.assert_array_equal(made["support_frames"][2], new_frames[:2])
    expected = draw_raster(new_points[2], 32, archive.style)
    np.testing.assert_array_equal(made["target_raster"][2], expected)


@pytest.mark.parametrize("strength", [-0.1, 1.5, float("nan")])
def test_strengths_out_of_range_are_refused(archive, strength):
    with pytest.raises(InputError, match=r"must be in \[0, 1\]"):
        _take(archive, 1, strength=strength)

"""Warped copies of a photo: pixels and landmarks move together."""

import numpy as np
import pytest

from data_pipeline import face_model, geometry, synthetic
from data_pipeline.augment import _warp, augment, augment_all, augment_held_out
from data_pipeline.lids_and_lips import inside_of

PHOTO, LANDMARKS = (
    part[0]
    for part in synthetic.render(
        synthetic.sample_identity(3), synthetic.neutral_motion(), 96
    )
)


def test_same_seed_same_pictures():
    a, b, c = (augment(PHOTO, LANDMARKS, 3, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(a[0], b[0])
    np.testing.assert_array_equal(a[1], b[1])
    assert (a[0] != c[0]).any()
    assert a[0].shape == (3, 96, 96, 3) and a[0].dtype == np.uint8
    assert a[1].shape == (3, 68, 2) and a[1].dtype == np.float32


def test_landmarks_stay_on_what_they_mark():
    """A dot painted on the nose's tip is found where the new landmark says."""
    marked = np.zeros_like(PHOTO)
    x, y = np.round(LANDMARKS[30]).astype(int)
    marked[y - 1 : y + 2, x - 1 : x + 2] = 255
    painted = LANDMARKS.copy()
    painted[30] = (x, y)
    photos, points = augment(marked, painted, 8, seed=0)
    ys, xs = np.mgrid[:96, :96]
    for photo, new in zip(photos, points):
        mass = np.where(photo[..., 0] > 99, photo[..., 0], 0.0)  # teeth are dim here
        found = np.array([(mass * xs).sum(), (mass * ys).sum()]) / mass.sum()
        assert np.abs(found - new[30]).max() < 1.5


def test_no_motion_is_the_photo_itself():
    still = np.array([[1.0, 0, 0], [0, 1, 0]])
    mouth = inside_of(PHOTO, LANDMARKS)
    same, points = _warp(PHOTO, LANDMARKS, LANDMARKS, still, mouth)
    assert np.abs(same.astype(int) - PHOTO).max() <= 1
    np.testing.assert_array_equal(points, LANDMARKS)


def test_a_motion_that_would_fold_the_picture_is_halved():
    still = np.array([[1.0, 0, 0], [0, 1, 0]])
    mouth = inside_of(PHOTO, LANDMARKS)
    target = LANDMARKS.copy()
    target[27:36] += [-14, 0]  # the nose, over a cheek
    _, points = _warp(PHOTO, LANDMARKS, target, still, mouth)
    moved = (points - LANDMARKS)[27:36, 0]
    halvings = np.log2(-14 / moved)
    assert 1 <= halvings[0] <= 3 and np.ptp(halvings) < 1e-4
    assert halvings[0] == pytest.approx(round(halvings[0]), abs=1e-4)


def test_landmarks_of_a_motion_however_far_lie_where_the_picture_moved():
    """The photo says where each pixel came from: red is x, green y."""
    still = np.array([[1.0, 0, 0], [0, 1, 0]])
    coded = np.zeros_like(PHOTO)
    coded[..., 0], coded[..., 1] = np.meshgrid(np.arange(96), np.arange(96))
    target = LANDMARKS + np.random.default_rng(0).normal(0, 300, (68, 2))
    mouth = inside_of(PHOTO, LANDMARKS)
    picture, points = _warp(coded, LANDMARKS, target, still, mouth)
    inside = (np.abs(points - 47) < 46).all(1)
    assert inside.sum() > 40
    came_from = geometry.sample(picture, *points[inside].T)[:2].T
    assert np.abs(came_from - LANDMARKS[inside]).max() < 2


def test_a_fifth_of_the_copies_blink():
    _, points = augment(PHOTO, LANDMARKS, 96, seed=0)
    gap = np.linalg.norm(points[:, 37] - points[:, 41], axis=-1)
    gap /= geometry.inter_ocular(points)
    own = np.linalg.norm(LANDMARKS[37] - LANDMARKS[41]) / geometry.inter_ocular(
        LANDMARKS
    )
    assert (gap < own / 2).mean() > 0.2


def test_copies_open_and_shut_eyes_and_mouth_and_cross_neither():
    _, points = augment(PHOTO, LANDMARKS, 48, seed=0)
    down = points[:, 8] - points[:, 27]
    down /= np.linalg.norm(down, axis=-1, keepdims=True)
    eyes = geometry.inter_ocular(points)
    for upper, lower, least in ((37, 41, 0.05), (44, 46, 0.05), (62, 66, 0.02)):
        gap = ((points[:, lower] - points[:, upper]) * down).sum(-1) / eyes
        assert gap.min() > -0.02  # shut, not crossed
        assert gap.min() < least
        assert gap.max() > 2 * least


def test_odd_landmarks_leave_pictures():
    """Beyond the border, all in one place, and a face that is black."""
    outside, point = LANDMARKS + [50, 0], np.full_like(LANDMARKS, 40)
    for photo, landmarks in ((PHOTO, outside), (PHOTO, point), (0 * PHOTO, LANDMARKS)):
        pictures, points = augment(photo, landmarks, 3, seed=0)
        assert pictures.shape == (3, 96, 96, 3)
        assert np.isfinite(points).all()


@pytest.mark.parametrize("turned", [-0.7, 0.5])
def test_a_turned_head_turns_on_from_where_it_is(turned):
    """Also one turned beyond the farthest; copies do not gather at a limit."""
    motion = synthetic.neutral_motion()
    motion["yaw"] += turned
    (photo,), (landmarks,) = synthetic.render(synthetic.sample_identity(3), motion, 96)
    _, points = augment(photo, landmarks, 48, seed=0)
    yaw = np.sign(turned) * face_model.angles(face_model.fit(points).rotation)[:, 0]
    assert abs(yaw.mean() - abs(turned)) < 0.15
    assert 0.03 < yaw.std() < 0.25
    assert yaw.max() < abs(turned) + 0.15
    assert yaw.max() - np.percentile(yaw, 75) > 0.04


def test_poses_vary_and_stay_plausible():
    _, points = augment(PHOTO, LANDMARKS, 16, seed=0)
    eyes = geometry.inter_ocular(points)
    assert eyes.std() > 0.4
    nose = (points[:, 30] - points[:, 27]) / eyes[:, None]
    assert nose[:, 0].std() > 0.04  # turned
    assert nose[:, 1].std() > 0.01  # nodding
    mouth = np.linalg.norm(points[:, 62] - points[:, 66], axis=1) / eyes
    assert mouth.std() > 0.03
    assert (eyes > 0.6 * geometry.inter_ocular(LANDMARKS)).all()
    assert np.isfinite(points).all() and (np.abs(points - 48) < 96).all()


def test_the_head_stays_near_its_place():
    """Of heads that turn and wander more, backgrounds learn to follow the face."""
    _, points = augment(PHOTO, LANDMARKS, 16, seed=0)
    away = np.linalg.norm(points.mean(1) - LANDMARKS.mean(0), axis=-1)
    assert 2 < away.mean() < 5.5
    eyes = points[:, 42:48].mean(1) - points[:, 36:42].mean(1)
    roll = np.degrees(np.arctan2(eyes[:, 1], eyes[:, 0]))
    assert 1.5 < roll.std() < 4.5


@pytest.mark.parametrize("num_photos, share", [(1, 1 / 4), (2, 2 / 5), (4, 1 / 2)])
def test_one_photo_is_a_quarter_of_the_whole_and_many_are_half(num_photos, share):
    photos = np.stack([np.roll(PHOTO, t, axis=1) for t in range(num_photos)])
    landmarks = np.repeat(LANDMARKS[None], num_photos, axis=0)
    pictures, points = augment_all(photos, landmarks, 12, seed=0)
    assert len(pictures) == len(points) == 12 / (1 - share)
    originals = [(p == photos).all((1, 2, 3)).any() for p in pictures]
    assert sum(originals) == share * len(pictures)


def test_none_wanted_none_made():
    photos, landmarks = PHOTO[None], LANDMARKS[None]
    pictures, points = augment_all(photos, landmarks, 0, seed=0)
    assert pictures is photos and points is landmarks


@pytest.mark.parametrize("shots", [1, 8])
def test_every_warp_moves_in_its_own_way(shots, monkeypatch):
    """Also of several photos, and of the pictures that are kept aside."""
    seeds = []

    def drawn(seed, num_frames, sample=synthetic.sample_poses):
        seeds.append(seed)
        return sample(seed, num_frames)

    monkeypatch.setattr(synthetic, "sample_poses", drawn)
    photos, landmarks = np.stack([PHOTO] * shots), np.stack([LANDMARKS] * shots)
    augment_all(photos, landmarks, 96, seed=0)
    augment_held_out(photos, landmarks, 8, seed=0)
    assert len(seeds) == len(set(seeds)) >= 104

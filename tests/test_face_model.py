"""The 3-D model of the landmarks: what it recovers of rendered heads, and transfers."""

import functools

import numpy as np
import pytest

from data_pipeline import face_model, geometry, synthetic
from flax_heads.metrics import normalized_mean_error

SIZE = 128

_absolute = functools.partial(face_model.transfer, relative=False)
_relative = functools.partial(face_model.transfer, relative=True)


@functools.cache
def _person(seed, motion_seed=None, kind="talk", frames=24):
    """Landmarks of an unseen person: independent poses, or somebody's motion."""
    identity = synthetic.sample_identity(seed)
    if motion_seed is None:
        motion = synthetic.sample_poses(seed, 8)
    else:
        motion = synthetic.sample_motion(motion_seed, frames, kind)
    return synthetic.landmarks_of(identity, motion, SIZE)


def _shape_error(found, truth):
    """Landmark error in eyes' distances, whatever the place and size. Mean."""
    laid = [
        geometry.transform(f, geometry.fit_similarity(f, t))
        for f, t in zip(found, truth)
    ]
    return normalized_mean_error(np.array(laid), truth).mean()


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_unseen_faces_are_explained(seed):
    points = _person(seed)
    explained = face_model.project(face_model.fit(points))
    assert normalized_mean_error(explained, points).mean() < 0.03


def test_turns_of_the_head_are_recovered():
    motion = synthetic.neutral_motion(9)
    motion["yaw"] = np.linspace(-0.7, 0.7, 9).astype(np.float32)
    motion["roll"] = np.linspace(0.9, -0.3, 9).astype(np.float32)
    points = synthetic.landmarks_of(synthetic.sample_identity(4), motion, SIZE)
    rotation = face_model.fit(points).rotation
    np.testing.assert_allclose(
        rotation @ rotation.swapaxes(1, 2), np.tile(np.eye(3), (9, 1, 1)), atol=1e-9
    )
    yaw = np.arctan2(rotation[:, 0, 2], np.hypot(rotation[:, 0, 0], rotation[:, 1, 0]))
    # A deeper face that turns less looks almost the same.
    assert np.corrcoef(yaw, motion["yaw"])[0, 1] > 0.99
    assert 0.7 < np.polyfit(motion["yaw"], yaw, 1)[0] < 1.2
    roll = np.arctan2(rotation[:, 1, 0], rotation[:, 0, 0])
    np.testing.assert_allclose(roll, motion["roll"], atol=np.radians(12))


@pytest.mark.parametrize("shots, bound", [(1, 0.045), (8, 0.03)])
@pytest.mark.parametrize("kind", ["talk", "look", "expressive"])
def test_a_persons_face_in_anothers_motion(kind, shots, bound):
    errors, as_they_are = [], []
    for person, driver in ((10, 11), (12, 13), (14, 15)):
        truth = _person(person, driver, kind)
        found = _absolute(_person(person)[:shots], _person(driver, driver, kind))
        errors.append(_shape_error(found, truth))
        as_they_are.append(_shape_error(_person(driver, driver, kind), truth))
    assert np.mean(errors) < bound
    assert np.mean(errors) < 0.6 * np.mean(as_they_are)


def test_relative_turns_start_from_the_photo():
    """From a photo that looks aside, a driver who looks about makes the same turns."""
    person = synthetic.sample_identity(50)
    turns = {"yaw": np.linspace(0, 0.5, 9), "pitch": np.linspace(0, -0.2, 9)}
    motion = synthetic.neutral_motion(9) | {k: np.float32(v) for k, v in turns.items()}
    driver = synthetic.landmarks_of(synthetic.sample_identity(51), motion, SIZE)
    motion["yaw"] = motion["yaw"] - 0.5
    truth = synthetic.landmarks_of(person, motion, SIZE)
    photo = truth[:1]
    found = _relative(photo, driver)
    np.testing.assert_allclose(found[0], photo[0], atol=0.5)
    assert _shape_error(found, truth) < 0.05
    assert _shape_error(found, truth) < _shape_error(_absolute(photo, driver), truth)


@pytest.mark.parametrize("yaw", [0.0, 0.2])
@pytest.mark.parametrize("driver, kind", [(5, "talk"), (21, "expressive")])
def test_closed_lips_do_not_pass_through_each_other(driver, kind, yaw):
    """The photo's lips are closed; the driver's are in some frames only."""
    still = synthetic.neutral_motion() | {"yaw": np.float32([yaw])}
    photo = synthetic.landmarks_of(synthetic.sample_identity(52), still, SIZE)
    found = _relative(photo, _person(driver, driver, kind, frames=75))
    inner = found[:, 65:68].mean(1) - found[:, 61:64].mean(1)
    opening = inner[:, 1] / geometry.inter_ocular(found)
    assert opening.min() > -0.05 and opening.max() > 0.1


def test_relative_places_follow_the_driver():
    """Shifts, zoom and lean go on from the photo's."""
    ways = {"shift_x": 0.05, "shift_y": -0.03, "roll": 0.3}
    motion = synthetic.neutral_motion(9)
    motion |= {k: np.linspace(0, v, 9).astype(np.float32) for k, v in ways.items()}
    motion["zoom"] = np.linspace(1, 1.1, 9).astype(np.float32)
    truth = synthetic.landmarks_of(synthetic.sample_identity(53), motion, SIZE)
    driver = synthetic.landmarks_of(synthetic.sample_identity(54), motion, SIZE)
    found = _relative(truth[:1], driver)
    assert normalized_mean_error(found, truth).mean() < 0.05


def test_a_slipped_frame_is_not_what_the_rest_is_measured_by():
    photo, driver = _person(30)[:1], _person(31, 31).copy()
    usual = _relative(photo, driver)
    driver[7] = driver[7].mean(0) + (driver[7] - driver[7].mean(0)) / 2
    found = np.delete(_relative(photo, driver), 7, 0)
    sizes = geometry.inter_ocular(found) / geometry.inter_ocular(np.delete(usual, 7, 0))
    np.testing.assert_allclose(sizes, 1, rtol=0.05)


def test_the_drivers_own_face_stays_as_it_is():
    points = _person(20, 21, frames=40)
    found = _absolute(points[::5], points)
    assert found.dtype == np.float32
    assert normalized_mean_error(found, points).mean() < 0.05
    assert _shape_error(found, points) < 0.01


@pytest.mark.parametrize("yaw", [-0.5, 0.5])
def test_a_photo_that_looks_aside_does_not_move_the_head_aside(yaw):
    """A crop around a turned face has the neck off its middle; the driver's decides."""
    turned = synthetic.neutral_motion() | {"yaw": np.float32([yaw])}
    photo = synthetic.landmarks_of(synthetic.sample_identity(55), turned, SIZE)
    photo = geometry.to_crop(photo, geometry.head_box(photo[0]), SIZE)
    driver = _person(56, 56)
    apart = (_absolute(photo, driver) - driver).mean((0, 1))
    assert abs(apart[0]) < 0.05 * geometry.inter_ocular(driver).mean()


def test_a_larger_head_that_leans_is_the_same_person():
    """The result follows the photos' size, and is upright where the driver is."""
    angle = 0.5
    turn = 1.5 * np.array(
        [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    )
    leaning = np.concatenate([turn, [[40.0], [-60.0]]], 1)
    photos, driver = _person(30), _person(31, 31)
    plain = _absolute(photos, driver)
    again = _absolute(geometry.transform(photos, leaning), driver)
    sizes = geometry.inter_ocular(again) / geometry.inter_ocular(plain)
    np.testing.assert_allclose(sizes, 1.5, rtol=0.03)
    assert _shape_error(again, plain) < 0.02
    eyes = again[:, geometry.LEFT_EYE].mean(1) - again[:, geometry.RIGHT_EYE].mean(1)
    before = plain[:, geometry.LEFT_EYE].mean(1) - plain[:, geometry.RIGHT_EYE].mean(1)
    lean = [np.arctan2(e[:, 1], e[:, 0]) for e in (eyes, before)]
    np.testing.assert_allclose(*lean, atol=np.radians(3))


def test_the_unit_is_the_pixel_of_the_crop():
    photos, driver = _person(30), _person(31, 31)
    small = _absolute(photos, driver)
    twice = _absolute(2 * photos, 2 * driver)
    np.testing.assert_allclose(twice, 2 * small, atol=0.02)


def test_long_clips_are_solved_in_parts(monkeypatch):
    points = _person(40, 41, frames=60)
    monkeypatch.setattr(face_model, "_MOST_FRAMES", 60)
    whole = face_model.fit(points)
    monkeypatch.setattr(face_model, "_MOST_FRAMES", 30)
    monkeypatch.setattr(face_model, "_CHUNK", 25)
    parts = face_model.fit(points)
    assert parts.rotation.shape == (60, 3, 3)
    apart = face_model.project(parts) - face_model.project(whole)
    assert np.abs(apart).mean() < 0.01 * geometry.inter_ocular(points).mean()


@pytest.mark.parametrize("transfer", [_absolute, _relative])
@pytest.mark.parametrize("frames", [1, 12])
def test_what_is_no_face_gives_finite_numbers(transfer, frames):
    noise = np.random.default_rng(0).normal(64, 30, (frames, 68, 2)).astype(np.float32)
    assert np.isfinite(transfer(noise[:2], noise)).all()


def test_the_file_is_of_these_heads():
    """A few people already have the file's mean face and stay within its components."""
    few = face_model.build(num_people=12)
    kept = face_model.load()
    assert kept.identity.shape == (25, 68, 3) and kept.motion.shape == (15, 68, 3)
    assert np.abs(few.mean - kept.mean).mean() < 0.02
    for changes, components in (
        (few.identity, kept.identity),
        (few.motion, kept.motion),
    ):
        changes = changes.reshape(len(changes), -1)
        basis = np.linalg.qr(components.reshape(len(components), -1).T)[0]
        outside = changes - changes @ basis @ basis.T
        assert np.linalg.norm(outside) < 0.25 * np.linalg.norm(changes)


def test_angles_are_those_of_the_renderer():
    wanted = np.random.default_rng(0).uniform(-0.7, 0.7, (20, 3))
    rotations = face_model.turned(wanted)
    np.testing.assert_allclose(face_model.angles(rotations), wanted, atol=1e-9)
    motion = synthetic.neutral_motion()
    motion |= {"yaw": np.float32([0.4]), "pitch": np.float32([-0.2])}
    seen = synthetic.landmarks_of(synthetic.sample_identity(5), motion, 128)
    (found,) = face_model.angles(face_model.fit(seen).rotation)
    np.testing.assert_allclose(found, [0.4, -0.2, 0], atol=0.06)


def test_a_face_moves_as_the_renderer_moves_it():
    """A whole turn, nod and change of expression, none of it seen before."""
    identity, still = synthetic.sample_identity(11), synthetic.neutral_motion()
    (start,) = synthetic.landmarks_of(identity, still, 128)
    own = face_model.fit(start[None]).rotation
    rest = synthetic.points_of(identity, still)
    same = face_model.move(start, 0 * rest, own, np.ones(1))
    np.testing.assert_allclose(same[0], start, atol=1e-3)

    moved = synthetic.neutral_motion()
    change = {"yaw": 0.35, "pitch": 0.15, "mouth_open": 0.6, "smile": 0.5, "blink": 1}
    moved |= {name: np.float32([value]) for name, value in change.items()}
    truth = synthetic.landmarks_of(identity, moved, 128)
    turn = face_model.turned(face_model.angles(own) + [[0.35, 0.15, 0]])
    changes = synthetic.points_of(identity, moved) - rest
    points = face_model.move(start, changes, turn, np.ones(1))

    def error(points):
        return np.linalg.norm(points - truth, axis=-1).mean()

    assert error(points) < 0.2 * error(start)


def test_a_smile_that_is_not_kept_goes():
    motion = synthetic.neutral_motion()
    motion["mouth_open"] = np.float32([0.7])
    (open_,) = synthetic.landmarks_of(synthetic.sample_identity(6), motion, 128)
    rotation = face_model.fit(open_[None]).rotation.repeat(3, 0)
    points = face_model.move(
        open_, np.zeros((3, 68, 3)), rotation, np.array([0, 0.5, 1])
    )
    gaps = np.linalg.norm(points[:, 66] - points[:, 62], axis=-1)
    assert gaps[0] < 0.35 * gaps[2]
    assert gaps[1] == pytest.approx(gaps[[0, 2]].mean(), rel=0.1)

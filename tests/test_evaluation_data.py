"""Whom an evaluation judges: rendered people, other drivers, and the exact truth."""

import numpy as np
import pytest

from data_pipeline import reenactment, synthetic
from data_pipeline.errors import InputError
from data_pipeline.synthetic_person import person_seed
from flax_heads import evaluate, evaluation_data, metrics, scores
from tests import tiny

COUNTS = {"num_photos": 2, "num_frames": 3, "num_videos": 2}


@pytest.fixture(scope="module")
def model():
    """A model that was trained on records."""
    return tiny.make_model()


@pytest.fixture(scope="module")
def cross(model):
    return evaluation_data.cross_cases(model, "synthetic", **COUNTS)


def test_truth_is_the_same_person_in_the_drivers_motion():
    (case,) = reenactment.render_reenactments(1, 2, 4, 64, seed=5, num_workers=0)
    person, driver = (
        synthetic.sample_identity(person_seed(5, number)) for number in (0, 1)
    )
    motion = synthetic.sample_motion(person_seed(5, 1), 4, "talk")
    frames, landmarks = synthetic.render(person, motion, 64)
    np.testing.assert_array_equal(case.frames, frames)
    np.testing.assert_array_equal(case.landmarks, landmarks)
    np.testing.assert_array_equal(
        case.driver_landmarks, synthetic.landmarks_of(driver, motion, 64)
    )
    poses = synthetic.sample_poses(person_seed(5, 0), 2)
    np.testing.assert_array_equal(case.photos, synthetic.render(person, poses, 64)[0])
    assert np.abs(case.driver_landmarks - landmarks).max() > 1  # another face
    assert case.person == "synthetic5_00000" and case.driver == "synthetic5_00001"


def test_cross_cases_are_of_the_models_size_and_different_people(cross):
    assert [c.driver for c in cross] == [
        "synthetic1000000_00001",
        "synthetic1000000_00002",
    ]
    for case in cross:
        assert case.photos.shape == (2, tiny.SIZE, tiny.SIZE, 3)
        assert case.frames.shape == (3, tiny.SIZE, tiny.SIZE, 3)
        assert case.driver_frame.shape == case.frames.shape[1:]
        assert case.driver != case.identity


def test_another_drivers_landmarks_are_adapted(cross):
    for case in cross:
        np.testing.assert_array_equal(case.wanted(2, "none"), case.driving)
        adapted = case.wanted(2, "absolute")
        # Nearer to the truth than another person's face is.
        error = metrics.normalized_mean_error(adapted, case.landmarks).mean()
        as_it_is = metrics.normalized_mean_error(case.driving, case.landmarks).mean()
        assert error < as_it_is


def test_every_way_of_drawing_has_a_name_and_a_colour(cross):
    pytest.importorskip("dlib")
    plots = pytest.importorskip("flax_heads.evaluation_plots", exc_type=ImportError)
    model = tiny.make_model(num_iterations=0)
    landmarks = cross[0].wanted(2, "absolute")
    drawn = {
        name: frames
        for name, frames, finite in evaluate.draw(
            model, model, cross[0], 2, landmarks, ["ff", "ft"], 1, seed=0
        )
        if finite
    }
    assert set(drawn) == set(scores.METHODS)
    assert {name.removesuffix(scores.ORACLE) for name in drawn} == set(plots._COLORS)
    for frames in drawn.values():
        assert frames.shape == cross[0].frames.shape and frames.dtype == np.uint8
    (fewer,) = (
        frames
        for name, frames, _ in evaluate.draw(
            model, None, cross[0], 1, landmarks, [], 0, seed=0
        )
        if name == "mean"
    )
    assert (fewer == cross[0].photos[0]).all()  # of one photo
    assert (drawn["mean"] != cross[0].photos[0]).any()  # of two


def test_self_cases_render_as_many_frames_as_are_needed(model):
    counts = {"num_photos": 8, "num_frames": 16, "num_videos": 2}
    cases = evaluation_data.self_cases(model, "synthetic", **counts, seed=0)
    assert [c.video for c in cases] == [
        "synthetic1000000_00000",
        "synthetic1000000_00001",
    ]
    for case in cases:
        assert len(case.photos) == 8 and len(case.frames) == 16
        np.testing.assert_array_equal(case.wanted(1, "absolute"), case.landmarks)
        seen = {p.tobytes() for p in case.photo_landmarks}
        assert not seen & {p.tobytes() for p in case.landmarks}


def test_a_model_trained_on_the_people_of_evaluations_gets_others(cross):
    model = tiny.make_model()
    model.config.data.kind = "synthetic"
    model.config.seed = 1_000_000
    cases = evaluation_data.cross_cases(model, None, **COUNTS)
    assert {c.video for c in cases}.isdisjoint(c.video for c in cross)


@pytest.mark.parametrize("data_dir", [None, "/data/vox2"])
def test_without_a_truth_there_is_no_cross_reenactment(model, data_dir):
    with pytest.raises(InputError, match="--data-dir synthetic"):
        evaluation_data.cross_cases(model, data_dir, **COUNTS)


def test_what_knows_the_truth_scores_as_truth():
    pytest.importorskip("dlib")
    from flax_heads import evaluate, scores

    (r,) = reenactment.render_reenactments(1, 2, 3, 128, seed=5, num_workers=0)
    case = evaluation_data.as_case(r)
    wanted = case.wanted(2, "absolute")
    arrays = evaluate._score_all(
        [("ft", case.frames, True), ("warp", case.frames[::-1], False)],
        case,
        wanted,
        scores.make_judges(),
    )
    assert (arrays["values/ft/l1"] == 0).all()
    assert arrays["finite/ft"] and not arrays["finite/warp"]
    assert not arrays["no_face"].any()
    np.testing.assert_allclose(arrays["values/ft/ssim"], 1, atol=1e-5)
    assert arrays["values/ft/nme"].mean() < arrays["values/warp/nme"].mean()
    error = metrics.normalized_mean_error(wanted, case.landmarks)
    np.testing.assert_array_equal(arrays["transfer"], error)
    assert (error > 0.01).all()  # the driver has another face

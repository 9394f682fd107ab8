"""The scores of self-reenactment: exact on what is known exactly."""

import numpy as np
import pytest

pytest.importorskip("dlib")

from data_pipeline import archive, synthetic
from data_pipeline.errors import InputError
from flax_heads import evaluate


@pytest.fixture(scope="module")
def people():
    return archive.render_archive(2, 12, 128, seed=3, num_workers=0)


def test_truth_scores_as_truth():
    motion = synthetic.sample_motion(4, 4, "talk")
    frames, landmarks = synthetic.render(synthetic.sample_identity(4), motion, 128)
    l1, error, missing = evaluate.score(frames, frames, landmarks)
    assert l1 == 0 and missing == 0
    assert error < 0.1  # the detector's own disagreement with the exact points


def test_another_pose_has_a_larger_landmark_error():
    identity = synthetic.sample_identity(4)
    still = synthetic.neutral_motion(2)
    turned = still | {"yaw": np.float32([0.4, 0.4])}
    frames, landmarks = synthetic.render(identity, still, 128)
    others, _ = synthetic.render(identity, turned, 128)
    right = evaluate.score(frames, frames, landmarks)
    wrong = evaluate.score(others, frames, landmarks)
    assert wrong[1] > 2 * right[1] and wrong[0] > 0


def test_frames_without_a_face_are_counted_not_scored():
    landmarks = np.zeros((3, 68, 2), np.float32)
    grey = np.full((3, 64, 64, 3), 128, np.uint8)
    l1, error, missing = evaluate.score(grey, grey + np.uint8(51), landmarks)
    assert l1 == pytest.approx(0.2)
    assert np.isnan(error) and missing == 1


def test_sources_and_targets_are_disjoint_and_nested(people):
    few, targets = evaluate._split(people, 1, 1, 4, 6, seed=0)
    more, same = evaluate._split(people, 1, 4, 4, 6, seed=0)
    np.testing.assert_array_equal(targets, same)
    assert set(few) < set(more) and not set(more) & set(targets)
    assert (more >= people.video_offset[1]).all()


def test_too_few_frames_is_one_line(people):
    with pytest.raises(InputError, match="lower --frames"):
        evaluate._videos(people, 13, 50)


def test_videos_of_different_people_come_first():
    parts = archive.render_archive(4, 3, 32, seed=3, num_workers=0)
    people = archive.make_archive(
        parts.frames,
        parts.landmarks,
        parts.frames_per_video,
        list("abcd"),
        ["x", "x", "y", "x"],
    )
    assert evaluate._videos(people, 2, 50) == [0, 2, 1, 3]
    assert evaluate._videos(people, 2, 2) == [0, 2]

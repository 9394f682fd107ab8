"""Synthetic heads drawn by JAX: the same pictures as NumPy's, whoever moves how."""

import jax
import numpy as np
import pytest

from data_pipeline import synthetic
from flax_heads.synthetic_frames import render_frames, stack_people

SIZE = 48
PEOPLE = [
    synthetic.sample_identity(0) | {"glasses": 1.0, "asymmetry": 0.0},
    synthetic.sample_identity(1) | {"glasses": 0.0, "asymmetry": 0.0},
]


@pytest.fixture(scope="module")
def optimized():
    """Programs are compiled as for users.

    Without most optimizations JAX 0.10 draws outlines half a thousandth of the frame
    away on CPUs that have AVX2 and no AVX-512.
    """
    name = "jax_disable_most_optimizations"
    before = jax.config.read(name)
    jax.config.update(name, False)
    yield
    jax.config.update(name, before)


@pytest.fixture(scope="module")
def drawn(optimized):
    """Two people in the same four poses: frames [2, 4, ...] and landmarks."""
    motion = synthetic.sample_poses(5, 4)
    motion["mouth_open"][:2] = [0.0, 0.9]
    both = {key: np.tile(values, 2) for key, values in motion.items()}
    people = stack_people(PEOPLE)
    frames, landmarks = render_frames(
        people, np.repeat([0, 1], 4), both, size=SIZE, at_once=4
    )
    shape = (2, 4)
    frames, landmarks = jax.device_get((frames, landmarks))
    return motion, frames.reshape(*shape, SIZE, SIZE, 3), landmarks.reshape(2, 4, 68, 2)


def test_jax_draws_what_numpy_draws(drawn):
    motion, frames, landmarks = drawn
    for person, drawn_frames, drawn_points in zip(PEOPLE, frames, landmarks):
        expected, points = synthetic.render(person, motion, SIZE)
        assert drawn_frames.dtype == expected.dtype == np.uint8
        np.testing.assert_allclose(drawn_points, points, atol=0.05)
        off = np.abs(drawn_frames.astype(int) - expected).max(-1)
        # A ray along an outline may miss by rounding, and only such a ray.
        assert (off > 1).mean() < 1e-3


def test_same_motion_same_pose_of_two_people(drawn):
    """Cross-reenactment: the turn of the head is the motion's, not the person's."""
    motion, frames, landmarks = drawn
    assert np.abs(frames[0].astype(int) - frames[1]).mean() > 8
    eyes = landmarks[:, :, 36:48].reshape(2, 4, 2, 6, 2).mean(3)
    dx, dy = (eyes[:, :, 1] - eyes[:, :, 0]).transpose(2, 0, 1)
    roll = np.arctan2(dy, dx)
    np.testing.assert_allclose(roll[0], roll[1], atol=0.05)


def test_people_are_stacked_as_numbers():
    people = stack_people(PEOPLE)
    leaves = jax.tree.leaves(people)
    assert {leaf.shape[0] for leaf in leaves} == {2}
    assert {leaf.dtype for leaf in leaves} == {np.dtype(np.float32)}

"""Frames drawn again: a head that moves too little is asked for more."""

import dataclasses
import itertools

import numpy as np
import pytest

from data_pipeline import synthetic
from flax_heads import baselines, metrics
from flax_heads.corrections import animate_corrected, missing

pytest.importorskip("dlib")
SIZE = 128


@dataclasses.dataclass
class _Sluggish:
    """Draws a rendered face, moved from rest by a share of what it is asked for."""

    share: float = 0.5

    def __post_init__(self):
        identity = synthetic.sample_identity(4)
        rendered = synthetic.render(identity, synthetic.neutral_motion(), SIZE)
        self.photos, self.rest = rendered
        self.calls = 0

    def animate(self, landmarks):
        self.calls += 1
        points = self.rest[0] + self.share * (np.stack(list(landmarks)) - self.rest[0])
        yield from baselines.piecewise_affine_warp(self.photos, self.rest, points)


@pytest.fixture(scope="module")
def wanted():
    """Eleven faces that talk. float32 [11, 68, 2]."""
    motion = synthetic.sample_motion(2, 44, "talk")
    motion = {name: values[::4] for name, values in motion.items()}
    return synthetic.landmarks_of(synthetic.sample_identity(4), motion, SIZE)


def _error(frames, wanted):
    found, seen = metrics.detect_landmarks(np.stack(list(frames)))
    assert seen.all()
    return metrics.normalized_mean_error(found, wanted).mean()


def test_a_head_that_moves_half_as_far_follows_when_asked_again(wanted):
    head = _Sluggish()
    errors = [_error(head.animate(wanted), wanted)]
    errors += [_error(animate_corrected(head, wanted, n), wanted) for n in (1, 2)]
    assert errors[1] < 0.8 * errors[0]
    assert errors[2] < errors[1]


def test_where_there_is_no_face_nothing_is_corrected(wanted):
    noise = np.random.default_rng(0).integers(0, 256, (11, SIZE, SIZE, 3), np.uint8)
    assert (missing(noise, wanted) == 0).all()


def test_a_face_in_its_place_lacks_little(wanted):
    """Less than the noise of the detector on rendered faces, a tenth of the eyes."""
    head = _Sluggish(share=1.0)
    eyes = np.linalg.norm(wanted[:, 36:42].mean(1) - wanted[:, 42:48].mean(1), axis=-1)
    steps = np.linalg.norm(
        missing(np.stack(list(head.animate(wanted))), wanted), axis=-1
    )
    assert (steps.mean(1) < 0.1 * eyes).all()


def test_frames_stream_a_batch_at_a_time(wanted):
    head = _Sluggish()
    endless = itertools.cycle(wanted)
    frames = animate_corrected(head, endless, 1)
    first = list(itertools.islice(frames, 8))
    assert len(first) == 8 and head.calls == 2
    assert len(list(animate_corrected(head, wanted, 1))) == 11

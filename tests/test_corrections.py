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
    """Draws a rendered face, moved from rest by a share of what it is asked for.

    As in a raster, lips that are asked to cross cannot be told from open ones.
    """

    share: float = 0.5
    mouth_open: float = 0.0

    def __post_init__(self):
        motion = synthetic.neutral_motion()
        motion["mouth_open"] = np.float32([self.mouth_open])
        rendered = synthetic.render(synthetic.sample_identity(4), motion, SIZE)
        self.photos, self.rest = rendered
        self.calls = 0

    def animate(self, landmarks):
        self.calls += 1
        asked = np.stack(list(landmarks))
        upper, lower = asked[:, [61, 62, 63]], asked[:, [67, 66, 65]]
        crossed = upper[..., 1:] > lower[..., 1:]
        asked[:, [61, 62, 63]] = np.where(crossed, lower, upper)
        asked[:, [67, 66, 65]] = np.where(crossed, upper, lower)
        points = self.rest[0] + self.share * (asked - self.rest[0])
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


@pytest.mark.parametrize("mouth_open", [0.0, 0.2])
def test_an_open_mouth_that_is_asked_to_close_opens_no_further(mouth_open):
    motion = synthetic.neutral_motion()
    motion["mouth_open"] = np.float32([mouth_open])
    wanted = synthetic.landmarks_of(synthetic.sample_identity(4), motion, SIZE)
    head = _Sluggish(mouth_open=0.8)
    openings = []
    for rounds in (0, 2, 5):
        frame = next(iter(animate_corrected(head, wanted, rounds)))
        ((points,), _) = metrics.detect_landmarks(frame[None])
        openings.append(np.linalg.norm(points[66] - points[62]))
    assert openings[1] < 1.05 * openings[0]
    assert openings[2] < 1.05 * openings[0]


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

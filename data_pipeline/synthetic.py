"""Rendered heads of random people, with exact 68-point landmarks.

A dataset without a download: the meta-learner trains on it, tests and demos run
on it. Every pixel's ray meets a 3-D surface (`synthetic_head`), so a turn of the
head moves the nose more than the ears and hides what it should. The same person
under another's motion is cross-reenactment with its ground truth.

Pixel convention: the centre of the top-left pixel is (0, 0), so a frame spans
[-0.5, size - 0.5]; at another size s' a point x goes to (x + 0.5) s'/s - 0.5.
Numpy only, float32, deterministic by seed; `flax_heads.synthetic_frames` draws the
same on an accelerator.
"""

import numpy as np

from data_pipeline import synthetic_paint as painting
from data_pipeline.synthetic_frame import draw_frame, frame_landmarks, frame_points
from data_pipeline.synthetic_head import build_head
from data_pipeline.synthetic_motion import (
    MOTION_KEYS,
    neutral_motion,
    sample_motion,
    sample_poses,
)
from data_pipeline.synthetic_person import Params, sample_identity

__all__ = [
    "landmarks_of",
    "make_video",
    "neutral_motion",
    "points_of",
    "render",
    "sample_identity",
    "sample_motion",
    "sample_poses",
]


def _frames_of(motion):
    """The motion as one dict of Python floats per frame."""
    columns = [np.asarray(motion[k], np.float32).tolist() for k in MOTION_KEYS]
    return [dict(zip(MOTION_KEYS, row)) for row in zip(*columns, strict=True)]


def landmarks_of(identity: Params, motion, size: int) -> np.ndarray:
    """Landmarks without the picture: what `render` returns, at a tenth of the cost.

    Args:
      identity: from `sample_identity`.
      motion: dict of arrays [F], see `synthetic_motion`.
      size: side of the frame in pixels.

    Returns:
      float32 [F, 68, 2], (x, y) pixels, iBUG order.
    """
    head = build_head(identity)
    frames = _frames_of(motion)
    out = np.zeros((len(frames), 68, 2), np.float32)
    for f, m in enumerate(frames):
        out[f] = frame_landmarks(identity, head, m, size)
    return out


def points_of(identity: Params, motion) -> np.ndarray:
    """Landmarks on the head itself, wherever it turns.

    Args: as `landmarks_of`.

    Returns:
      float32 [F, 68, 3]: x right, y down, z out of the face, decimetres from the point
      on which the head turns.
    """
    head = build_head(identity)
    return np.stack([frame_points(identity, head, m) for m in _frames_of(motion)])


def render(
    identity: Params, motion, size: int, supersample: int = 2
) -> tuple[np.ndarray, np.ndarray]:
    """Frames of one person in the given motion, with their landmarks.

    Args:
      identity: from `sample_identity`.
      motion: dict of arrays [F], see `synthetic_motion`.
      size: side of the frames in pixels.
      supersample: rays per pixel, per axis.

    Returns:
      frames: uint8 [F, size, size, 3] RGB.
      landmarks: float32 [F, 68, 2], (x, y) pixels, iBUG order.
    """
    head = build_head(identity)
    backdrop = painting.backdrop(identity, size * supersample)
    motions = _frames_of(motion)
    frames = np.zeros((len(motions), size, size, 3), np.uint8)
    landmarks = np.zeros((len(motions), 68, 2), np.float32)
    for f, m in enumerate(motions):
        frames[f], landmarks[f] = draw_frame(
            identity, head, m, backdrop.copy(), size, supersample
        )
    return frames, landmarks


def make_video(seed: int, num_frames: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """One random person in `num_frames` random poses; same seed, same bytes.

    Returns:
      frames uint8 [F, size, size, 3] and landmarks float32 [F, 68, 2].
    """
    return render(sample_identity(seed), sample_poses(seed, num_frames), size)

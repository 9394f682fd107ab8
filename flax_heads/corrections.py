"""Frames drawn again where the face came out short of its landmarks. Not in the paper.

A head learned from a few photos opens its mouth half as far as the raster says. What
dlib finds on the drawn face tells by how much; the raster then asks for more.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from data_pipeline import geometry
from data_pipeline.landmarks import MAX_SPREAD, refine_landmarks
from flax_heads.talking_head import BATCH, TalkingHead, batches

# Share of what is missing that a round asks for: of the outline and the brows half as
# much, whose places dlib knows less surely and whose noise would move the whole head.
_SHARE = np.where(np.arange(68) < 27, 0.35, 0.7)[:, None]


def animate_corrected(
    head: TalkingHead, landmarks: Iterable[np.ndarray], rounds: int
) -> Iterator[np.ndarray]:
    """As `TalkingHead.animate`, with every frame drawn `rounds` times again.

    Args:
      head: whom to draw.
      landmarks: float [68, 2] each, in pixels of the head's crop: where dlib should find
        them. A renderer's exact ones lie elsewhere: frames get worse by them.
      rounds: of corrections; two bring most of what can be had.

    Yields:
      uint8 [size, size, 3].

    Raises:
      InputError: dlib or its models are not installed.
    """
    for batch in batches(landmarks, BATCH):
        wanted = np.stack(batch).astype(np.float32)
        asked = wanted
        frames = np.stack(list(head.animate(asked)))
        for _ in range(rounds):
            asked = geometry.uncross(asked + _SHARE * missing(frames, wanted), wanted)
            frames = np.stack(list(head.animate(asked)))
        yield from frames


def missing(frames: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """From where the landmarks are to where they should be, in pixels.

    Args:
      frames: uint8 [F, S, S, 3].
      wanted: float [F, 68, 2].

    Returns:
      float [F, 68, 2]; 0 where dlib's predictions disagree, as on what is no face.
    """
    steps = np.zeros_like(wanted)
    for step, frame, points in zip(steps, frames, wanted):
        found, spread, _ = refine_landmarks(frame, points)
        if spread <= MAX_SPREAD:
            step[:] = points - found
    return steps

"""Landmarks to rasters: the coloured stick figures that the networks read.

The palette and the widths are part of a trained model: a `RasterStyle` is saved with
every model and dataset, and a different one must be refused, not converted.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools

import numpy as np

# Bumped whenever the same landmarks would give other pixels.
RASTER_VERSION = 1

# Part -> (landmarks in drawing order, RGB colour of 0s and 255s). iBUG indices.
_PARTS = {
    "jaw": (range(0, 17), (255, 255, 255)),
    "right_brow": (range(17, 22), (255, 0, 0)),
    "left_brow": (range(22, 27), (0, 255, 0)),
    "nose_bridge": (range(27, 31), (0, 0, 255)),
    "nostrils": (range(31, 36), (0, 0, 255)),
    "right_eye": ([*range(36, 42), 36], (255, 0, 255)),
    "left_eye": ([*range(42, 48), 42], (0, 255, 255)),
    "outer_lips": ([*range(48, 60), 48], (255, 255, 0)),
    "inner_lips": ([*range(60, 68), 60], (255, 255, 0)),
}

_TOGETHER = 32  # frames drawn at once: memory


@dataclasses.dataclass(frozen=True)
class RasterStyle:
    """How rasters are drawn.

    Attributes:
      line_width: in pixels at 256 px; scales with the size, but never below one pixel.
      inner_lips: draw landmarks 60-67, which carry the opening of the mouth.
      version: the palette's and the drawing rule's version.
    """

    line_width: float = 2.0
    inner_lips: bool = True
    version: int = RASTER_VERSION


def draw_raster(
    landmarks: np.ndarray, size: int, style: RasterStyle = RasterStyle()
) -> np.ndarray:
    """Draws the anti-aliased line segments of one face on black.

    A pixel's coverage falls from 1 to 0 over the pixel at a line's edge; where lines
    meet, each channel keeps the largest value, so the order of drawing is irrelevant.

    Args:
      landmarks: float [68, 2], (x, y) pixels of the square frame; may leave it.
      size: side of the raster in pixels.
      style: line width and parts.

    Returns:
      uint8 [size, size, 3].

    Raises:
      ValueError: the landmarks have another shape or are not finite.
    """
    return draw_rasters(np.asarray(landmarks)[None], size, style)[0]


def draw_rasters(
    landmarks: np.ndarray, size: int, style: RasterStyle = RasterStyle()
) -> np.ndarray:
    """`draw_raster` for every frame: [F, 68, 2] -> uint8 [F, size, size, 3].

    Each segment is drawn in many frames at once, several times as fast as one by one.

    Raises:
      ValueError: the landmarks have another shape or are not finite.
    """
    if landmarks.shape[1:] != (68, 2):
        raise ValueError(f"landmarks must be [68, 2], got {landmarks.shape[1:]}")
    if not np.isfinite(landmarks).all():
        raise ValueError("landmarks must be finite")
    if style.version != RASTER_VERSION:
        raise ValueError(
            f"this code draws rasters of version {RASTER_VERSION}, not {style.version}"
        )
    rasters = np.empty((len(landmarks), size, size, 3), np.uint8)
    for first in range(0, len(landmarks), _TOGETHER):
        part = slice(first, first + _TOGETHER)
        rasters[part] = _draw(landmarks[part].astype(np.float64), size, style)
    return rasters


def _draw(landmarks, size, style):
    """A few frames: [F, 68, 2] -> uint8 [F, size, size, 3].

    Of each segment a rectangle is drawn in every frame, as large as the largest that
    one of the frames needs: farther than `reach` from a segment the coverage is 0.
    """
    reach = max(style.line_width * size / 256, 1.0) / 2 + 0.5
    planes = np.zeros((3, len(landmarks) * size * size), np.float32)
    segments, colours = _segments(style.inner_lips)
    start, end = landmarks[:, segments[:, 0]], landmarks[:, segments[:, 1]]  # [F, P, 2]
    low = np.clip(np.ceil(np.minimum(start, end) - reach), 0, size - 1).astype(int)
    high = np.clip(np.floor(np.maximum(start, end) + reach), 0, size - 1).astype(int)
    spans = (high - low).max(0, initial=0) + 1  # [P, 2]
    delta = end - start
    squared = np.maximum(np.square(delta).sum(-1), 1e-12)  # [F, P]
    first = size * size * np.arange(len(landmarks))[:, None, None]
    steps = np.arange(size)
    for p, (width, height) in enumerate(spans.tolist()):
        # Beyond the frame's edge its last pixels are drawn again, the same.
        columns = np.minimum(low[:, p, :1] + steps[:width], size - 1)[:, None]
        rows = np.minimum(low[:, p, 1:] + steps[:height], size - 1)[:, :, None]
        x, y = columns - start[:, p, 0, None, None], rows - start[:, p, 1, None, None]
        dx, dy = delta[:, p, 0, None, None], delta[:, p, 1, None, None]
        along = (x * dx + y * dy) / squared[:, p, None, None]
        along = np.minimum(np.maximum(along, 0), 1)
        distance = np.hypot(x - along * dx, y - along * dy)  # [F, h, w]
        value = np.minimum(np.maximum(reach - distance, 0), 1).astype(np.float32)
        value *= np.float32(255)
        pixels = first + rows * size + columns
        for channel in colours[p]:
            plane = planes[channel]
            plane[pixels] = np.maximum(plane[pixels], value)
    canvas = np.moveaxis(planes, 0, 1).reshape(len(landmarks), size, size, 3)
    return (canvas + 0.5).astype(np.uint8)


@functools.cache
def _segments(inner_lips: bool) -> tuple[np.ndarray, list[list[int]]]:
    """The landmarks at the ends of all segments, int [P, 2], and their channels."""
    ends, channels = [], []
    for name, (indices, colour) in _PARTS.items():
        if name == "inner_lips" and not inner_lips:
            continue
        for pair in itertools.pairwise(indices):
            ends.append(pair)
            channels.append([c for c, value in enumerate(colour) if value])
    return np.array(ends), channels

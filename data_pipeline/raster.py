"""Landmarks to rasters: the coloured stick figures that the networks read.

The palette and the widths are part of a trained model: a `RasterStyle` is saved with
every model and dataset, and a different one must be refused, not converted.
"""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np

# Bumped whenever the same landmarks would give other pixels.
RASTER_VERSION = 1

# Part -> (landmarks in drawing order, RGB colour). iBUG 68-point indices.
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
    if landmarks.shape != (68, 2) or not np.isfinite(landmarks).all():
        raise ValueError(f"landmarks must be finite [68, 2], got {landmarks.shape}")
    if style.version != RASTER_VERSION:
        raise ValueError(
            f"this code draws rasters of version {RASTER_VERSION}, not {style.version}"
        )
    reach = max(style.line_width * size / 256, 1.0) / 2 + 0.5
    canvas = np.zeros((size, size, 3), np.float32)
    for name, (indices, colour) in _PARTS.items():
        if name == "inner_lips" and not style.inner_lips:
            continue
        points = landmarks[list(indices)].astype(np.float64)
        for start, end in itertools.pairwise(points):
            _draw_segment(canvas, start, end, reach, np.float32(colour))
    return (canvas + 0.5).astype(np.uint8)


def draw_rasters(
    landmarks: np.ndarray, size: int, style: RasterStyle = RasterStyle()
) -> np.ndarray:
    """`draw_raster` for every frame: [F, 68, 2] -> uint8 [F, size, size, 3]."""
    if not len(landmarks):
        return np.zeros((0, size, size, 3), np.uint8)
    return np.stack([draw_raster(points, size, style) for points in landmarks])


def _draw_segment(canvas, start, end, reach, colour) -> None:
    """Draws one segment into `canvas`, in place, on the pixels it can reach."""
    size = len(canvas)
    low = np.maximum(np.ceil(np.minimum(start, end) - reach), 0).astype(int)
    high = np.minimum(np.floor(np.maximum(start, end) + reach), size - 1).astype(int)
    if (low > high).any():
        return
    x = np.arange(low[0], high[0] + 1) - start[0]
    y = (np.arange(low[1], high[1] + 1) - start[1])[:, None]
    dx, dy = end - start
    along = np.clip((x * dx + y * dy) / max(dx * dx + dy * dy, 1e-12), 0, 1)
    distance = np.hypot(x - along * dx, y - along * dy)
    coverage = np.clip(reach - distance, 0, 1).astype(np.float32)
    patch = canvas[low[1] : high[1] + 1, low[0] : high[0] + 1]
    np.maximum(patch, coverage[..., None] * colour, out=patch)

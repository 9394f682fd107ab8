"""One random change of a face's shape, and the warp of the picture that it means.

Parts of the face move and stretch; what lies between them follows smoothly.
"""

from __future__ import annotations

import dataclasses
import functools
import math

import numpy as np

from data_pipeline import geometry


@dataclasses.dataclass(frozen=True)
class _Part:
    """A part of the face that changes as one; amounts are the largest drawn, +-.

    Attributes:
      points: the landmarks whose mean is its centre; of a pair, the person's right
        one's. The left one is its mirror image.
      radius: how far the change reaches (a Gaussian's standard deviation).
      shift: outwards (of a pair) and down; of the distances between the eyes and from
        the eyes to the mouth.
      stretch: across and along the face; 0.1 is 10 %.
      above: centre and points are apart by so much of the distance eyes to mouth.
    """

    points: range
    radius: float
    shift: tuple[float, float] = (0.0, 0.0)
    stretch: tuple[float, float] = (0.0, 0.0)
    above: float = 0.0


# Lengths are in face heights, which is about the distance from the eyes to the mouth.
_PARTS = (
    _Part(range(27, 36), 1.1, stretch=(0.14, 0.14)),  # the whole head
    _Part(range(36, 42), 0.40, shift=(0.06, 0.05), stretch=(0.20, 0.20)),  # eyes
    _Part(range(17, 22), 0.35, shift=(0.03, 0.08)),  # brows
    _Part(range(30, 36), 0.32, shift=(0, 0.09), stretch=(0.30, 0.10)),  # nose
    _Part(range(48, 60), 0.45, shift=(0, 0.07), stretch=(0.22, 0.25)),  # mouth
    _Part(range(7, 10), 0.55, shift=(0, 0.13)),  # chin
    _Part(range(3, 6), 0.55, shift=(0.14, 0.0)),  # jaw's corners
    _Part(range(0, 3), 0.55, shift=(0.10, 0.0)),  # cheeks
    _Part(range(17, 27), 0.60, shift=(0, 0.16), above=0.8),  # forehead and hair
)
_STEEPEST = 0.5  # of the displacement's slope: below 1 the warp cannot fold
_ITERATIONS = 6  # to invert the warp

# The 68 points of the mirrored face: its right eye is our left one.
MIRRORED = np.array(
    [*range(16, -1, -1), *range(26, 16, -1), *range(27, 31), *range(35, 30, -1)]
    + [45, 44, 43, 42, 47, 46, 39, 38, 37, 36, 41, 40]
    + [*range(54, 47, -1), *range(59, 54, -1), *range(64, 59, -1), 67, 66, 65]
)


def draw_shape(
    rng: np.random.Generator, strength: float
) -> tuple[np.ndarray, np.ndarray]:
    """What each of the C centres does (see `_Part`): shift [C, 2] and stretch [C, 2].

    Args:
      rng: decides about everything.
      strength: in [0, 1], of every change.
    """
    shifts, stretches = [], []
    for part in _PARTS:
        across, down, *stretch = strength * rng.uniform(-1, 1, 4)
        shift = np.array([across, down]) * part.shift
        stretch = np.expm1(np.multiply(stretch, part.stretch))
        for outwards in (-1, 1) if _is_pair(part) else (0,):
            shifts.append(shift * (outwards, 1))
            stretches.append(stretch)
    return np.array(shifts), np.array(stretches)


def _is_pair(part):
    return set(MIRRORED[part.points]) != set(part.points)


@functools.cache
def _centres():
    """Weights [C, 68] that make centres of landmarks, and radii [C], in that order."""
    rows, radii = [], []
    eyes, mouth = np.zeros(68), np.zeros(68)
    eyes[36:48], mouth[48:68] = 1 / 12, 1 / 20
    for part in _PARTS:
        sides = [list(part.points)]
        if _is_pair(part):
            sides.append(MIRRORED[sides[0]])
        for points in sides:
            row = np.zeros(68)
            row[points] = 1 / len(points)
            rows.append(row + part.above * (eyes - mouth))
            radii.append(part.radius)
    return np.array(rows), np.array(radii)


class Warp:
    """Displaces points by what the parts near them do, in each frame's own face.

    Lengths follow the eyes and the mouth as they are seen: in a face that is turned
    away a wider jaw is wider by less.
    """

    def __init__(
        self,
        landmarks: np.ndarray,
        shape: tuple[np.ndarray, np.ndarray],
        nodes: np.ndarray,
    ):
        """Fits a change to the faces of F frames.

        Args:
          landmarks: float [F, 68, 2], pixels.
          shape: of `draw_shape`; weakened where the warp would fold.
          nodes: float [n * n, 2], the rows of a regular grid over what is to be warped.
        """
        weights, radii = _centres()
        right = landmarks[:, geometry.RIGHT_EYE].mean(1)
        left = landmarks[:, geometry.LEFT_EYE].mean(1)
        across = left - right  # [F, 2]
        down = landmarks[:, geometry.MOUTH].mean(1) - (left + right) / 2
        lengths = [np.linalg.norm(v, axis=-1) for v in (down, 1.1 * across)]
        height = np.maximum(np.max(lengths, 0), 1.0)  # [F]
        upright = down / np.maximum(lengths[0], 1e-6)[:, None]
        sideways = np.stack([upright[:, 1], -upright[:, 0]], -1)
        axes = np.stack([sideways, upright], -1)  # [F, 2, 2], columns

        shift, stretch = shape
        self._centres = weights @ landmarks  # [F, C, 2]
        self._radii = radii * height[:, None]  # [F, C]
        linear = np.einsum("fij,cj,fkj->fcik", axes, stretch, axes)  # [F, C, 2, 2]
        shifts = shift @ np.stack([across, down], 1)  # [F, C, 2]
        constant = shifts - np.einsum("fcij,fcj->fci", linear, self._centres)
        # At a point: the parts' Gaussians times these. [F, C, 6]
        self._maps = np.concatenate([linear.reshape(*shifts.shape[:2], 4), constant], 2)
        self._maps *= min(1.0, _STEEPEST / max(self._steepest(nodes), 1e-6))

    def _steepest(self, nodes):
        """The displacement's largest slope on the grid [n * n, 2] in any frame."""
        side = math.isqrt(len(nodes))
        grid = self._displacement(nodes).reshape(-1, side, side, 2)
        slopes = [
            np.diff(grid, axis=axis)[:, : side - 1, : side - 1] for axis in (1, 2)
        ]
        step = np.linalg.norm(nodes[1] - nodes[0])
        return np.sqrt(np.square(slopes).sum((0, -1)).max()) / step

    def _displacement(self, points):
        """At points [P, 2] or [F, P, 2]. [F, P, 2]."""
        points = np.broadcast_to(points, (len(self._maps), *points.shape[-2:]))
        offsets = points[:, :, None] - self._centres[:, None]  # [F, P, C, 2]
        squared = np.einsum("fpci,fpci->fpc", offsets, offsets)
        near = np.exp(squared * (-0.5 / np.square(self._radii))[:, None])
        a, b, c, d, e, f = np.moveaxis(near @ self._maps, -1, 0)
        x, y = points[..., 0], points[..., 1]
        return np.stack([a * x + b * y + e, c * x + d * y + f], -1)

    def __call__(self, points: np.ndarray) -> np.ndarray:
        """Where the face's points [F, P, 2] go. [F, P, 2]."""
        return points + self._displacement(points)

    def inverse(self, points: np.ndarray) -> np.ndarray:
        """Which of the face's points come to lie at [P, 2]. [F, P, 2]."""
        found = points
        for _ in range(_ITERATIONS):
            found = points - self._displacement(found)
        return found

"""Other people out of those there are: one random change of face and colours per episode.

A feed-forward identity takes thousands of people to learn. Here every episode shows
somebody new: all its frames and landmarks go through the same change of the face's
shape, the same mirror, shift, zoom and turn of the picture, and the same map of colours.
"""

from __future__ import annotations

import dataclasses
import functools

import numpy as np

from data_pipeline import geometry
from data_pipeline.episodes import IDENTITY
from data_pipeline.errors import InputError
from data_pipeline.raster import RasterStyle, draw_rasters


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
_TURN, _ZOOM, _SHIFT = 0.10, 0.10, 0.05  # radians, log, share of the frame
_HUE, _SATURATION, _WARMTH = 0.15, 0.25, 0.10  # radians, log, log; skin stays skin
_GAMMA, _CONTRAST = 0.35, 0.20  # log
_NODES = 17  # along each side of the grid on which the warp is computed
_ITERATIONS = 6  # to invert it

# The 68 points of the mirrored face: its right eye is our left one.
MIRRORED = np.array(
    [*range(16, -1, -1), *range(26, 16, -1), *range(27, 31), *range(35, 30, -1)]
    + [45, 44, 43, 42, 47, 46, 39, 38, 37, 36, 41, 40]
    + [*range(54, 47, -1), *range(59, 54, -1), *range(64, 59, -1), 67, 66, 65]
)


def check_strength(strength: float) -> None:
    """Raises InputError unless the strength is in [0, 1]."""
    if not 0 <= strength <= 1:
        raise InputError(
            f"data.identity_augmentation must be in [0, 1], not {strength}: 0 shows the "
            "people as they are",
            reason="config",
        )


def augment_batch(
    batch: dict[str, np.ndarray],
    landmarks: np.ndarray,
    seed: int,
    first_position: int,
    strength: float,
    style: RasterStyle,
) -> dict[str, np.ndarray]:
    """A batch (see `episodes`) of other people, rasters drawn anew.

    A pure function of its arguments; what becomes of an episode depends on its position
    only, not on the batch or the process that it is in.

    Args:
      batch: frames and `video_index` of B episodes; its rasters are not read.
      landmarks: float [B, K + 1, 68, 2], pixels, the target's last.
      seed: of the episodes.
      first_position: `step * batch_size + b` of the batch's first episode.
      strength: in [0, 1]; 0 returns the batch itself.
      style: of the rasters.
    """
    if not strength:
        return batch
    supports, targets = batch["support_frames"], batch["target_frame"]
    frames = np.concatenate([supports, targets[:, None]], 1)  # [B, K + 1, H, W, 3]
    points = np.empty(landmarks.shape, np.float32)
    for b in range(len(frames)):
        rng = np.random.default_rng((seed, IDENTITY, first_position + b))
        frames[b], points[b] = augment_episode(frames[b], landmarks[b], rng, strength)
    size = frames.shape[2]
    rasters = draw_rasters(points.reshape(-1, 68, 2), size, style)
    rasters = rasters.reshape(frames.shape)
    return {
        "support_frames": frames[:, :-1],
        "support_rasters": rasters[:, :-1],
        "target_frame": frames[:, -1],
        "target_raster": rasters[:, -1],
        "video_index": batch["video_index"],
    }


def augment_episode(
    frames: np.ndarray, landmarks: np.ndarray, rng: np.random.Generator, strength: float
) -> tuple[np.ndarray, np.ndarray]:
    """Makes another person of the one that some frames show.

    Args:
      frames: uint8 [F, S, S, 3].
      landmarks: float [F, 68, 2], pixels.
      rng: decides about everything.
      strength: in [0, 1], of every change; 0 returns the arguments themselves.

    Returns:
      uint8 [F, S, S, 3] and float32 [F, 68, 2].
    """
    if not strength:
        return frames, landmarks
    size = frames.shape[1]
    shape = _draw_shape(rng, strength)
    matrix, mirrored = _draw_view(rng, strength, size)
    colours, tones = _draw_colours(rng, strength)
    # Where would each node of a grid over the new frame lie on the changed face?
    side = np.linspace(0, size - 1, _NODES)
    nodes = np.stack(np.meshgrid(side, side), -1).reshape(-1, 2)
    nodes = (nodes - matrix[:, 2]) @ np.linalg.inv(matrix[:, :2]).T
    warp = _Warp(landmarks, shape, nodes)
    places = warp.inverse(nodes)  # [F, P, 2]
    weights = geometry.interpolation(_NODES, size)
    places = places.reshape(-1, _NODES, _NODES, 2).transpose(0, 3, 1, 2)
    places = weights @ places.astype(np.float32) @ weights.T  # [F, 2, S, S]
    new = np.empty_like(frames)
    for f, frame in enumerate(frames):
        new[f] = _recolour(geometry.sample(frame, *places[f]), colours, tones)
    moved = geometry.transform(warp(landmarks), matrix)
    return new, moved[:, MIRRORED] if mirrored else moved


# ------------------------------------------------------------------- shape


def _draw_shape(rng, strength):
    """For every centre of `_centres`: shift [C, 2], stretch [C, 2]."""
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


class _Warp:
    """Displaces points by what the parts near them do, in each frame's own face.

    Lengths follow the eyes and the mouth as they are seen: in a face that is turned
    away a wider jaw is wider by less.
    """

    def __init__(self, landmarks, shape, nodes):
        """Args: landmarks [F, 68, 2]; of `_draw_shape`; points to be covered [P, 2]."""
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
        """The displacement's largest slope on a regular grid [P, 2] in any frame."""
        grid = self._displacement(nodes).reshape(-1, _NODES, _NODES, 2)
        slopes = [
            np.diff(grid, axis=axis)[:, : _NODES - 1, : _NODES - 1] for axis in (1, 2)
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

    def __call__(self, points):
        """Where the face's points [F, P, 2] go. [F, P, 2]."""
        return points + self._displacement(points)

    def inverse(self, points):
        """Which of the face's points come to lie at [P, 2]. [F, P, 2]."""
        found = points
        for _ in range(_ITERATIONS):
            found = points - self._displacement(found)
        return found


def _draw_view(rng, strength, size):
    """Mirror, turn, zoom and shift about the frame's centre: ([2, 3], is mirrored)."""
    angle, zoom, x, y = strength * rng.uniform(-1, 1, 4)
    mirrored = rng.random() < strength / 2
    angle, zoom = _TURN * angle, np.exp(_ZOOM * zoom)
    linear = zoom * np.array(
        [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    )
    if mirrored:
        linear[:, 0] *= -1
    centre = np.full(2, (size - 1) / 2)
    shift = centre - linear @ centre + _SHIFT * size * np.array([x, y])
    return np.concatenate([linear, shift[:, None]], 1), mirrored


# ------------------------------------------------------------------ colours


def _draw_colours(rng, strength):
    """A matrix [3, 3] for RGB and, after it, a uint8 curve [256]."""
    hue, saturation, warmth, tint, gamma, contrast = strength * rng.uniform(-1, 1, 6)
    # Hue and saturation turn and stretch colours about the axis of greys.
    grey = np.full((3, 3), 1 / 3)
    cross = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / np.sqrt(3)
    turn = np.cos(_HUE * hue) * (np.eye(3) - grey) + np.sin(_HUE * hue) * cross
    matrix = grey + np.exp(_SATURATION * saturation) * turn
    gains = _WARMTH * np.array([warmth, tint, -warmth]) * (1, 0.5, 1)
    matrix = np.exp(gains)[:, None] * matrix
    levels = np.linspace(0, 1, 256) ** np.exp(_GAMMA * gamma)
    levels = 0.5 + (levels - 0.5) * np.exp(_CONTRAST * contrast)
    curve = np.clip(255 * levels + 0.5, 0, 255).astype(np.uint8)
    return matrix.astype(np.float32), curve


def _recolour(planes, matrix, curve):
    """float32 [3, S, S] in 0..255 -> uint8 [S, S, 3]."""
    size = planes.shape[1]
    colours = matrix @ planes.reshape(3, -1) + np.float32(0.5)
    np.clip(colours, 0, 255, out=colours)
    return curve.take(colours.astype(np.uint8).T).reshape(size, size, 3)

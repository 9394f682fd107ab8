"""Other people out of those there are: one random change of face and colours per episode.

A feed-forward identity takes thousands of people to learn. Here every episode shows
somebody new: all its frames and landmarks go through the same change of the face's
shape, the same mirror, shift, zoom and turn of the picture, and the same map of colours.
"""

from __future__ import annotations

import numpy as np

from data_pipeline import geometry
from data_pipeline.episodes import IDENTITY
from data_pipeline.errors import InputError
from data_pipeline.face_shape import MIRRORED, Warp, draw_shape
from data_pipeline.raster import RasterStyle, draw_rasters

_TURN, _ZOOM, _SHIFT = 0.10, 0.10, 0.05  # radians, log, share of the frame
_HUE, _SATURATION, _WARMTH = 0.15, 0.25, 0.10  # radians, log, log; skin stays skin
_GAMMA, _CONTRAST = 0.35, 0.20  # log
# Along each side of the grid on which the warp is computed; landmarks take it exactly,
# and of 17 nodes lay 1.9 px beside their pixels at worst, 0.25 px in the mean (256 px).
_NODES = 33


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
    shape = draw_shape(rng, strength)
    matrix, mirrored = _draw_view(rng, strength, size)
    colours, tones = _draw_colours(rng, strength)
    # Where would each node of a grid over the new frame lie on the changed face?
    side = np.linspace(0, size - 1, _NODES)
    nodes = np.stack(np.meshgrid(side, side), -1).reshape(-1, 2)
    nodes = (nodes - matrix[:, 2]) @ np.linalg.inv(matrix[:, :2]).T
    warp = Warp(landmarks, shape, nodes)
    places = warp.inverse(nodes)  # [F, P, 2]
    weights = geometry.interpolation(_NODES, size)
    places = places.reshape(-1, _NODES, _NODES, 2).transpose(0, 3, 1, 2)
    places = weights @ places.astype(np.float32) @ weights.T  # [F, 2, S, S]
    new = np.empty_like(frames)
    for f, frame in enumerate(frames):
        new[f] = _recolour(geometry.sample(frame, *places[f]), colours, tones)
    moved = geometry.transform(warp(landmarks), matrix)
    return new, moved[:, MIRRORED] if mirrored else moved


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

"""Rendered heads of random people, with exact 68-point landmarks.

A dataset without a download: the meta-learner trains on it, tests and demos run
on it. Every pixel's ray meets a 3-D surface (`synthetic_head`), so a turn of the
head moves the nose more than the ears and hides what it should.

Pixel convention: the centre of the top-left pixel is (0, 0), so a frame spans
[-0.5, size - 0.5]; at another size s' a point x goes to (x + 0.5) s'/s - 0.5.
Numpy only, float32, deterministic by seed.
"""

import numpy as np

from data_pipeline import synthetic_grid as grid
from data_pipeline import synthetic_head as geometry
from data_pipeline import synthetic_paint as painting
from data_pipeline.synthetic_landmarks import head_landmarks
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
    "render",
    "sample_identity",
    "sample_motion",
    "sample_poses",
]

_CAMERA = 14.0  # decimetres from the camera to the plane through the ears
_PIVOT = np.array([0, 0.55, -0.10], np.float32)  # where the head turns on the neck
_NEAR, _FAR = 1.45, -0.85  # depths between which the head lies


# ------------------------------------------------------------------- camera


def _camera(p: Params, m) -> tuple[np.ndarray, np.ndarray, float]:
    """Rotation [3, 3] head to world, the pivot's place [3], frame side in dm."""
    cy, sy = np.cos(m["yaw"]), np.sin(m["yaw"])
    cp, sp = np.cos(m["pitch"]), np.sin(m["pitch"])
    cr, sr = np.cos(m["roll"]), np.sin(m["roll"])
    yaw = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    pitch = np.array([[1, 0, 0], [0, cp, sp], [0, -sp, cp]])
    roll = np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]])
    shift = np.array([m["shift_x"], m["shift_y"], 0]) * painting.FRAME
    side = painting.FRAME * p["framing"] / m["zoom"]
    place = _PIVOT - np.array([0, p["frame_y"], 0]) + shift
    return (roll @ pitch @ yaw).astype(np.float32), place.astype(np.float32), side


def _project(points, rotation, place, side, size):
    """Head-frame points [N, 3] to pixels [N, 2]."""
    world = (points - _PIVOT) @ rotation.T + place
    plane = world[:, :2] * (_CAMERA / (_CAMERA - world[:, 2:]))
    return (plane / side + 0.5) * size - 0.5


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
    head = geometry.build_head(identity)
    frames = _frames_of(motion)
    out = np.zeros((len(frames), 68, 2), np.float32)
    for f, m in enumerate(frames):
        out[f] = _posed(identity, head, m, size)[2]
    return out


def _posed(p, head, m, size):
    """One frame's surface, camera (see `_camera`) and landmarks [68, 2]."""
    surface = geometry.pose_surface(p, head, m)
    camera = _camera(p, m)
    points = head_landmarks(p, surface, m, camera[0][0])
    return surface, camera, _project(points, *camera, size)


# -------------------------------------------------------------- the picture


def _draw_head(p, m, head, surface, picture, depth, side, rotation, place):
    """March, paint and shade the head over picture [3, n, n], in place."""
    n = picture.shape[1]
    pixel = side / n
    plane = (np.arange(n, dtype=np.float32) + 0.5) * np.float32(pixel) - 0.5 * side
    centre = (np.array([0, 0, 0]) - _PIVOT) @ rotation.T + place
    reach = 1.30 + 2 * p["hair_side"]
    bottom = max(1.75, p["length"] + 0.2) + 0.3 * m["mouth_open"]
    rows = np.flatnonzero((plane > centre[1] - 1.85) & (plane < centre[1] + bottom))
    cols = np.flatnonzero(np.abs(plane - centre[0]) < reach)
    if not rows.size or not cols.size:
        return
    box = (slice(rows[0], rows[-1] + 1), slice(cols[0], cols[-1] + 1))
    wx, wy = np.broadcast_arrays(plane[None, box[1]], plane[box[0], None])
    shape = wx.shape

    # Rays in the head frame: origin + t ray, t = 1 on the plane through the ears.
    camera = np.array([0, 0, _CAMERA], np.float32)
    origin = rotation.T @ (camera - place) + _PIVOT
    ray = rotation.T @ np.stack(
        [wx.ravel(), wy.ravel(), np.full(wx.size, -_CAMERA, np.float32)]
    )
    outer = surface["skin"] + head["hair"]
    hit, t = grid.march(
        outer.reshape(-1),
        origin,
        ray,
        1 - _NEAR / _CAMERA,
        1 - _FAR / _CAMERA,
        26 if p["length"] else 14,  # hanging hair has walls along the rays
    )
    world_z = _CAMERA * (1 - t)
    # What the trunk hides is not shaded.
    hit &= world_z > depth[box].ravel()
    t, ray = t[hit], ray[:, hit]
    if not t.size:
        return
    x, y, z = origin[:, None] + t * ray
    row, column = grid.grid_position(x, y, z)

    # Normal: the gradient of rho^2 - R2(theta, y).
    _, slope_y, slope_t = grid.lookup(grid.gradients(outer), row, column).T
    rho2 = np.maximum(x * x + z * z, 0.01)
    normal = np.stack(
        [2 * x - slope_t * z / rho2, -slope_y, 2 * z + slope_t * x / rho2]
    )
    normal /= np.sqrt((normal**2).sum(0)) + 1e-6
    # Paint lies on the skin at rest: follow the jaw back.
    rest = np.interp(row, np.arange(grid.NY), surface["rest_row"]).astype(np.float32)
    follow = head["follow"].take(column.astype(np.int32))
    paint = np.ascontiguousarray(
        grid.lookup(head["paint"], row + follow * (rest - row), column).T
    )
    hair = grid.lookup(head["paint"], row, column)[:, 0]
    hair = np.clip((hair - 0.01) / 0.08, 0, 1)

    colour = np.repeat(p["skin"][:, None], t.size, 1)
    front = np.clip((z - 0.15) / 0.15, 0, 1)
    gloss = painting.paint_face(p, m, colour, x, y, front, paint, np.float32(pixel))
    strands = paint[1]
    painting.mix(
        colour, p["hair_colour"][:, None] * (0.85 + 0.28 * strands).clip(0.3), hair
    )
    colour *= np.exp(-paint[2])
    gloss += hair * (0.10 * p["hair_gloss"] * (1 + strands).clip(0, 2) - gloss)

    light = rotation.T @ p["light"]
    shadow = grid.cast_shadow(outer.reshape(-1), x, y, z, normal, light)
    shadow += 0.6 * hair * (1 - shadow)  # light gets through hair
    view = ray / np.sqrt((ray**2).sum(0))
    painting.shade(p, colour, normal, view, light, gloss, shadow)

    flat = np.flatnonzero(hit)
    at = (rows[0] + flat // shape[1]) * n + cols[0] + flat % shape[1]
    picture.reshape(3, -1)[:, at] = colour


def _draw_glasses(p, m, picture, rotation, place, side):
    """Rims and bridge on a plane before the eyes, over picture [3, n, n]."""
    n = picture.shape[1]
    plane = (np.arange(n, dtype=np.float32) + 0.5) * np.float32(side / n) - 0.5 * side
    origin = rotation.T @ (np.array([0, 0, _CAMERA], np.float32) - place) + _PIVOT
    ray = [
        r[0] * plane[None] + r[1] * plane[:, None] - r[2] * _CAMERA for r in rotation.T
    ]
    t = (1.02 - origin[2]) / ray[2]
    x, y = origin[0] + t * ray[0], origin[1] + t * ray[1] - 0.03
    a, b = p["glasses_half"]
    corner = 0.10
    dx = np.maximum(np.abs(np.abs(x) - p["eye_x"] - 0.02) - (a - corner), 0)
    dy = np.maximum(np.abs(y) - (b - corner), 0)
    distance = np.abs(np.sqrt(dx * dx + dy * dy) - corner)
    gap = np.abs(y + 0.06) + 9 * np.clip(np.abs(x) - p["eye_x"] + a, 0, None)
    distance = np.minimum(distance, gap)
    painting.mix(
        picture.reshape(3, -1),
        p["glasses_colour"],
        painting.edge(p["glasses_rim"] - distance, side / n).ravel() * 0.95,
    )


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
    p, frames = identity, _frames_of(motion)
    head = geometry.build_head(p)
    landmarks = np.zeros((len(frames), 68, 2), np.float32)
    n = size * supersample
    backdrop = painting.backdrop(p, n)
    out = np.zeros((len(frames), size, size, 3), np.uint8)
    for f, m in enumerate(frames):
        surface, (rotation, place, side), landmarks[f] = _posed(p, head, m, size)
        picture = backdrop.copy()
        depth = np.full((n, n), -9, np.float32)
        plane = (np.arange(n, dtype=np.float32) + 0.5) * np.float32(
            side / n
        ) - 0.5 * side
        head_at = rotation @ (np.array([0, 0.75, -0.1], np.float32) - _PIVOT) + place
        first = int(np.searchsorted(plane, head_at[1] - 0.1))
        painting.draw_trunk(
            p, m, picture[:, first:], depth[first:], plane[None], plane[first:, None],
            head_at, np.float32(side / n),
        )  # fmt: skip
        _draw_head(p, m, head, surface, picture, depth, side, rotation, place)
        if p["glasses"]:
            _draw_glasses(p, m, picture, rotation, place, side)
        shape = (3, size, supersample, size, supersample)
        linear = picture.reshape(shape).mean((2, 4))
        # A soft shoulder for highlights, then the display's square root.
        linear = np.clip(linear, 0, None)
        linear = linear * (1 + linear / 4) / (1 + linear)
        shown = np.sqrt(1.25 * linear) * 255 + 0.5
        out[f] = np.clip(shown, 0, 255).astype(np.uint8).transpose(1, 2, 0)
    return out, landmarks


def make_video(seed: int, num_frames: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """One random person in `num_frames` random poses; same seed, same bytes.

    Returns:
      frames uint8 [F, size, size, 3] and landmarks float32 [F, 68, 2].
    """
    return render(sample_identity(seed), sample_poses(seed, num_frames), size)

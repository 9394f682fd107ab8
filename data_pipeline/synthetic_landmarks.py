"""The 68 iBUG points of a synthetic head, on its surface."""

import numpy as np

from data_pipeline.synthetic_grid import grid_position, lookup, namespace
from data_pipeline.synthetic_person import (
    Params,
    brow_line,
    jaw_drop,
    lid_lines,
    mouth_half,
    mouth_lines,
)
from data_pipeline.synthetic_pose import jaw_follow, rest_heights

# Along the brow, from its outer end; along the eye, from its outer corner, two above,
# the inner corner, two below; along the mouth, and which of its lines.
_BROW = np.linspace(0.03, 0.97, 5, dtype=np.float32)
_EYE = np.float32([1, 0.36, -0.36, -1, -0.36, 0.36])
_OTHER_EYE = [3, 2, 1, 0, 5, 4]
_MOUTH = np.float32([
    -1, -0.62, -0.24, 0, 0.24, 0.62, 1, 0.64, 0.27, 0, -0.27, -0.64,
    -0.82, -0.31, 0, 0.31, 0.82, 0.31, 0, -0.31,
])  # fmt: skip
_MOUTH_LINE = np.array([1] + [0] * 5 + [1] + [3] * 5 + [1] * 5 + [2] * 3)
_NOSTRILS_X = np.float32([-0.92, -0.48, 0, 0.48, 0.92])
_NOSTRILS_Y = np.float32([0.078, 0.103, 0.118, 0.103, 0.078])
_BRIDGE = np.linspace(0, 1, 4, dtype=np.float32)


def _feature_points(p: Params, m):
    """Points 17-67 as x, y [51] in the head frame, before the lift to the surface."""
    xp = namespace(m["yaw"])
    eye, half = p["eye_x"], p["eye_half"]
    _, _, inner, outer = brow_line(p, m, _BROW)
    brow_x = outer - _BROW * (outer - inner)
    brow_y = brow_line(p, m, brow_x)[0]
    ny = p["nose_y"]
    nose_x = xp.concatenate([0 * _BRIDGE, _NOSTRILS_X * p["nose_half"]])
    nose_y = xp.concatenate([-0.01 + (ny + 0.005) * _BRIDGE, ny + _NOSTRILS_Y])
    upper, lower = lid_lines(p, m, _EYE * half)
    eye_y = xp.where(np.arange(6) < 4, upper, lower)
    eye_x = -(eye + _EYE * half)
    mouth_x = _MOUTH * mouth_half(p, m)
    lines = xp.stack(mouth_lines(p, m, mouth_x))  # [4, 20]
    mouth_y = lines[_MOUTH_LINE, np.arange(20)]
    other = np.array(_OTHER_EYE)
    x = xp.concatenate([-brow_x, brow_x[::-1], nose_x, eye_x, -eye_x[other], mouth_x])
    y = xp.concatenate([brow_y, brow_y[::-1], nose_y, eye_y, eye_y[other], mouth_y])
    # The mouth's lines lean by themselves; the nose does not.
    leans = (np.arange(51) < 10) | ((np.arange(51) >= 19) & (np.arange(51) < 31))
    return x, y + p["asymmetry"] * xp.sign(x) * leans


# Jaw points 0-8: how far down the way from ear to chin.
_JAW_DOWN = np.float32([0, 0.19, 0.37, 0.545, 0.705, 0.84, 0.945, 0.988, 1.0])
_SLIDE = np.linspace(1, 0.3, 36, dtype=np.float32)[:, None]


def head_landmarks(p: Params, skin, m, right):
    """The 68 iBUG points on the surface, float32 [68, 3] in the head frame.

    Args:
      skin: R2 without hair [NY, NS], from `pose_surface`.
      right: the image's x axis in the head frame [3]; only the outline of the
        far cheek depends on it.
    """
    xp = namespace(skin)
    skin = skin.reshape(-1)
    x, y = (v.astype(np.float32) for v in _feature_points(p, m))
    z = xp.full(51, 0.9, np.float32)
    for _ in range(12):
        radius2 = lookup(skin, *grid_position(x, y, z))
        z = xp.sqrt(xp.maximum(radius2 - x * x, 1e-4))
    points = xp.stack([x, y, z], -1)

    # Down to the jaw's angle along the side, then along the edge to the chin.
    y_side = 0.045 + (p["chin_y"] - 0.06) * _JAW_DOWN
    climb = (p["chin_y"] - 0.015 - y_side) / (p["chin_y"] - p["gonion_y"])
    # The chin's own point is in the middle; rounding under the root would move it.
    turn = 1.32 * xp.clip(climb, 0, 1) ** (1 / p["jaw_square"]) * (_JAW_DOWN < 1)
    turn = turn + 0.13 * xp.clip((p["gonion_y"] - y_side) / 0.5, 0, 1)
    turn = xp.concatenate([-turn, turn[-2::-1]]).astype(np.float32)
    rest = xp.concatenate([y_side, y_side[-2::-1]])
    rest = rest - 0.06 * xp.clip(xp.abs(turn) / 0.7, 0, 1)
    # A fixed point of the near side; of the far side, which the cheek may hide,
    # the outermost point of the face at that height: iBUG marks what is seen.
    slide = turn * _SLIDE  # [36, 17]
    moved_y, rest_y = rest_heights(p, jaw_drop(m))
    now = xp.interp(rest, rest_y, moved_y)
    jaw_y = (rest + jaw_follow(slide) * (now - rest)).astype(np.float32)
    sin, cos = xp.sin(slide), xp.cos(slide)
    radius = xp.sqrt(xp.maximum(lookup(skin, *grid_position(sin, jaw_y, cos)), 1e-4))
    jaw = xp.stack([radius * sin, jaw_y, radius * cos], -1)  # [36, 17, 3]
    outward = (jaw @ right) * xp.sign(turn)
    jaw = jaw[outward.argmax(0), np.arange(17)]
    return xp.concatenate([jaw, points]).astype(np.float32)

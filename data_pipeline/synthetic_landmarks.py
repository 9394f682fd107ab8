"""The 68 iBUG points of a synthetic head, on its surface."""

import numpy as np

from data_pipeline.synthetic_grid import Y, grid_position, lookup
from data_pipeline.synthetic_head import jaw_follow, rest_heights
from data_pipeline.synthetic_person import (
    Params,
    brow_line,
    jaw_drop,
    lid_lines,
    mouth_half,
    mouth_lines,
)


def _feature_points(p: Params, m) -> tuple[np.ndarray, np.ndarray]:
    """Points 17-67 as x, y [51] in the head frame, before the lift to the surface."""
    eye, half = p["eye_x"], p["eye_half"]
    # Brows, from the outer end of the one at the image's left to its inner end.
    _, _, inner, outer = brow_line(p, m, np.float32(0.3))
    brow_x = outer - np.linspace(0.03, 0.97, 5) * (outer - inner)
    brow_y = brow_line(p, m, brow_x)[0]
    # Nose: four down the bridge, five under the tip.
    ny = p["nose_y"]
    nose_x = np.array([0, 0, 0, 0, -0.92, -0.48, 0, 0.48, 0.92]) * p["nose_half"]
    nose_y = np.concatenate([
        np.linspace(-0.01, ny - 0.005, 4),
        ny + np.array([0.078, 0.103, 0.118, 0.103, 0.078]),
    ])  # fmt: skip
    # Eyes: corner, two above, corner, two below; ex runs outwards.
    c = np.array([1, 0.36, -0.36, -1, -0.36, 0.36])
    upper, lower = lid_lines(p, m, c * half)
    eye_y = np.where(np.arange(6) < 4, upper, lower)
    eye_x = -(eye + c * half)
    right = [3, 2, 1, 0, 5, 4]
    # Mouth.
    k = np.array([-1, -0.62, -0.24, 0, 0.24, 0.62, 1, 0.64, 0.27, 0, -0.27, -0.64,
                  -0.82, -0.31, 0, 0.31, 0.82, 0.31, 0, -0.31])  # fmt: skip
    mouth_x = k * mouth_half(p, m)
    lines = mouth_lines(p, m, mouth_x)
    which = np.array([1] + [0] * 5 + [1] + [3] * 5 + [1] * 5 + [2] * 3)
    mouth_y = np.choose(which, lines)
    x = np.concatenate([-brow_x, brow_x[::-1], nose_x, eye_x, -eye_x[right], mouth_x])
    y = np.concatenate([brow_y, brow_y[::-1], nose_y, eye_y, eye_y[right], mouth_y])
    side = np.sign(x) * (np.arange(51) < 10)
    return x, y + p["asymmetry"] * side


# Jaw points 0-8: how far down the way from ear to chin.
_JAW_DOWN = np.array([0, 0.19, 0.37, 0.545, 0.705, 0.84, 0.945, 0.988, 1.0])


def head_landmarks(p: Params, surface: dict[str, np.ndarray], m, right) -> np.ndarray:
    """The 68 iBUG points on the surface, float32 [68, 3] in the head frame.

    Args:
      right: the image's x axis in the head frame [3]; only the outline of the
        far cheek depends on it.
    """
    skin = surface["skin"].reshape(-1)
    x, y = (v.astype(np.float32) for v in _feature_points(p, m))
    z = np.full(51, 0.9, np.float32)
    for _ in range(12):
        radius2 = lookup(skin, *grid_position(x, y, z))
        z = np.sqrt(np.maximum(radius2 - x * x, 1e-4))
    points = np.stack([x, y, z], -1)

    # Down to the jaw's angle along the side, then along the edge to the chin.
    y_side = 0.045 + (p["chin_y"] - 0.06) * _JAW_DOWN
    climb = (p["chin_y"] - 0.015 - y_side) / (p["chin_y"] - p["gonion_y"])
    turn = 1.32 * np.clip(climb, 0, 1) ** (1 / p["jaw_square"])
    turn = turn + 0.13 * np.clip((p["gonion_y"] - y_side) / 0.5, 0, 1)
    turn = np.concatenate([-turn, turn[-2::-1]]).astype(np.float32)
    rest = np.concatenate([y_side, y_side[-2::-1]])
    rest = rest - 0.06 * np.clip(np.abs(turn) / 0.7, 0, 1)
    # A fixed point of the near side; of the far side, which the cheek may hide,
    # the outermost point of the face at that height: iBUG marks what is seen.
    slide = turn * np.linspace(1, 0.3, 36, dtype=np.float32)[:, None]  # [36, 17]
    follow = jaw_follow(slide)
    now = np.interp(rest, rest_heights(p, float(jaw_drop(m))), Y)
    jaw_y = (rest + follow * (now - rest)).astype(np.float32)
    sin, cos = np.sin(slide), np.cos(slide)
    radius2 = lookup(skin, *(v.ravel() for v in grid_position(sin, jaw_y, cos)))
    radius = np.sqrt(np.maximum(radius2, 1e-4)).reshape(slide.shape)
    jaw = np.stack([radius * sin, jaw_y, radius * cos], -1)  # [36, 17, 3]
    outward = (jaw @ right) * np.sign(turn)
    jaw = jaw[outward.argmax(0), np.arange(17)]
    return np.concatenate([jaw, points]).astype(np.float32)

"""How a synthetic head moves: the jaw, the lips and the cheeks of one frame."""

import numpy as np

from data_pipeline.synthetic_grid import NS, NY, THETA, Y_MAX, Y_MIN, Y, namespace, take
from data_pipeline.synthetic_person import Params, jaw_drop, mouth_half, mouth_lines


def jaw_follow(theta):
    """How far skin at this angle goes with the jaw: all in front, none at the ear."""
    xp = namespace(theta)
    t = xp.clip((1.65 - xp.abs(theta)) / 0.9, 0, 1)
    return (t * t * (3 - 2 * t)).astype(np.float32)


def rest_heights(p: Params, drop):
    """Heights where the skin is now and where it was at rest, [6] decimetres each."""
    lip, chin = p["mouth_y"], p["chin_y"]
    xp = namespace(drop)
    rest = [-9.0, lip - 0.22, lip + 0.02, lip + 0.1, chin + 0.05, chin + 0.9]
    rest = xp.stack([xp.asarray(v, np.float32) for v in rest])
    moves = np.array([0, 0, 0.35, 0.97, 1, 1], np.float32)
    return rest + moves * drop, rest


def _shift_rows(table, row):
    """The table [NY, NS, ...] read at fractional rows [NY, NS], column by column."""
    i = row.astype(np.int32)
    f = row - i.astype(np.float32)
    at = i * NS + np.arange(NS, dtype=np.int32)
    flat = table.reshape(NY * NS, *table.shape[2:])
    f = f.reshape(f.shape + (1,) * (table.ndim - 2))
    low = take(flat, at)
    return low + (take(flat, at + NS) - low) * f


_MIDDLE = np.zeros(1, np.float32)
_FOLLOW = jaw_follow(THETA)
_SIDEWAYS = (np.sin(THETA) * 0.93).astype(np.float32)
_CHEEKS = np.exp(-(((np.abs(_SIDEWAYS) - 0.42) / 0.15) ** 2))


def pose_surface(p: Params, head, m):
    """The surface under one frame's expression.

    Args:
      head: from `build_head`.
      m: one frame of a motion, numbers.

    Returns:
      R2 without hair [NY, NS]; the paint that lies on it now [NY, NS, 5]: paint
      follows the jaw.
    """
    xp = namespace(m["mouth_open"])
    now, rest = rest_heights(p, jaw_drop(m))
    rest_y = xp.interp(Y, now, rest).astype(np.float32)
    scale = (NY - 1) / (Y_MAX - Y_MIN)
    row = np.arange(NY, dtype=np.float32)[:, None]
    back = (xp.clip((rest_y - Y_MIN) * scale, 0, NY - 1.01)[:, None] - row) * _FOLLOW
    row = xp.clip(row + back, 0, NY - 1.01)
    skin, paint = _shift_rows(head["skin"], row), _shift_rows(head["paint"], row)

    # Bumps that move: lips, the open mouth's hollow, cheeks of a smile. Each is
    # a row profile times a column profile, so all of them are one product.
    upper_out, upper, lower, lower_out = mouth_lines(p, m, _MIDDLE)
    lips = xp.clip(1 - (_SIDEWAYS / mouth_half(p, m)) ** 2, 0, 1)

    def profile(cy, sigma):
        return xp.exp(-(((Y - cy) / sigma) ** 2))

    upper_half, lower_half = 0.5 * (upper - upper_out), 0.5 * (lower_out - lower)
    rows = xp.stack([
        0.075 * profile((upper_out + upper) / 2, upper_half + 0.012)
        + 0.090 * profile((lower + lower_out) / 2, lower_half + 0.012)
        - 0.30 * m["mouth_open"]
        * profile((upper + lower) / 2, 0.4 * (lower - upper) + 0.02),
        0.09 * xp.maximum(m["smile"], -0.2) * profile(0.42, 0.15),
    ]).astype(np.float32)  # fmt: skip
    cols = xp.stack([lips, xp.asarray(_CHEEKS)]).astype(np.float32)
    return skin + rows[0][:, None] * cols[0] + rows[1][:, None] * cols[1], paint

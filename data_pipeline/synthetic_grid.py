"""A surface around an axis, rho^2 = R2(theta, y) on a grid, and rays that meet it.

Coordinates are the head frame's: x right, y down, z to the viewer, decimetres.
The grid has NY rows (y) by NS columns (theta, the turn around the vertical axis,
0 in front). s = u / (1 + |u|) with u = tan(theta / 2) is the column's coordinate:
fine at the nose, coarse behind the ears, and free of trigonometry. Negative R2
means that there is no surface (above the crown, below the jaw).
"""

import numpy as np

NS, NY = 192, 192
S_MAX, Y_MIN, Y_MAX = 0.78, -1.65, 2.35
S = np.linspace(-S_MAX, S_MAX, NS, dtype=np.float32)
Y = np.linspace(Y_MIN, Y_MAX, NY, dtype=np.float32)
THETA = (2 * np.arctan(S / (1 - np.abs(S)))).astype(np.float32)  # [NS] rad


def grid_position(x, y, z):
    """Fractional (row, column) of points on the grid, clipped inside it."""
    column = x / (np.sqrt(x * x + z * z) + z + np.abs(x) + 1e-6)
    column = (column + S_MAX) * ((NS - 1) / (2 * S_MAX))
    row = (y - Y_MIN) * ((NY - 1) / (Y_MAX - Y_MIN))
    return np.clip(row, 0, NY - 1.01), np.clip(column, 0, NS - 1.01)


def lookup(table, row, column):
    """Bilinear value of a flat table [NY * NS] or [NY * NS, C] at grid positions."""
    i, j = row.astype(np.int32), column.astype(np.int32)
    # Through float32: a difference with int32 would be float64.
    v, h = row - i.astype(np.float32), column - j.astype(np.float32)
    if table.ndim == 2:
        v, h = v[:, None], h[:, None]
    at = i * NS + j
    a, b = table.take(at, 0), table.take(at + 1, 0)
    c, d = table.take(at + NS, 0), table.take(at + (NS + 1), 0)
    a += (b - a) * h
    c += (d - c) * h
    return a + (c - a) * v


def gradients(table):
    """The table with its slopes along y and theta, [NY * NS, 3]."""
    out = np.zeros((*table.shape, 3), np.float32)
    out[..., 0] = table
    dy = (Y_MAX - Y_MIN) / (NY - 1)
    out[1:-1, :, 1] = (table[2:] - table[:-2]) / (2 * dy)
    dtheta = THETA[2:] - THETA[:-2]
    out[:, 1:-1, 2] = (table[:, 2:] - table[:, :-2]) / dtheta
    return out.reshape(-1, 3)


def march(table, origin, ray, near, far, steps):
    """First meeting of rays with the surface rho^2 = table.

    Args:
      table: R2, flat [NY * NS].
      origin: ray origin [3]; ray: directions [3, P].
      near, far: ray parameters between which to look.

    Returns:
      hit: bool [P]; t: ray parameter [P], meaningful where hit.
    """

    def outside(t, ray, nearest):
        x, y, z = (origin[c] + t * ray[c] for c in range(3))
        row, column = grid_position(x, y, z)
        if nearest:
            at = row.astype(np.int32) * NS + column.astype(np.int32)
            return x * x + z * z - table.take(at)
        return x * x + z * z - lookup(table, row, column)

    step = np.float32((far - near) / steps)
    count = ray.shape[1]
    t_low = np.full(count, near, np.float32)
    found = np.zeros(count, bool)
    alive = np.arange(count)
    t = np.float32(near)
    rays = ray
    for _ in range(steps):
        t = t + step
        inside = outside(t, rays, True) < 0
        new = alive[inside]
        t_low[new], found[new] = t - step, True
        alive = alive[~inside]
        rays = rays[:, ~inside]
    rays, low = ray[:, found], t_low[found]
    low, high = low - 0.2 * step, low + 1.2 * step
    f_low, f_high = outside(low, rays, False), outside(high, rays, False)
    for _ in range(4):
        # False position, kept off the ends so that a steep end cannot stall it.
        part = np.clip(f_low / (f_low - f_high + 1e-9), 0.08, 0.92)
        t = low + (high - low) * part
        f = outside(t, rays, False)
        in_ = f < 0
        high, f_high = np.where(in_, t, high), np.where(in_, f, f_high)
        low, f_low = np.where(in_, low, t), np.where(in_, f_low, f)
    t_low[found] = low + (high - low) * np.clip(f_low / (f_low - f_high + 1e-9), 0, 1)
    return found, t_low


def cast_shadow(table, x, y, z, normal, light):
    """How much of the key light arrives, [P] in [0, 1]: a short march to the light."""
    clear = np.ones_like(x)
    for t in (0.05, 0.11, 0.19, 0.30, 0.45):
        px = x + t * light[0] + 0.02 * normal[0]
        py = y + t * light[1] + 0.02 * normal[1]
        pz = z + t * light[2] + 0.02 * normal[2]
        row, column = grid_position(px, py, pz)
        inside = lookup(table, row, column) - px * px - pz * pz
        np.minimum(clear, 1 - 2.2 * inside / (t + 0.05), out=clear)
    return np.clip(clear, 0, 1)

"""A surface around an axis, rho^2 = R2(theta, y) on a grid, and rays that meet it.

Coordinates are the head frame's: x right, y down, z to the viewer, decimetres.
The grid has NY rows (y) by NS columns (theta, the turn around the vertical axis,
0 in front). s = u / (1 + |u|) with u = tan(theta / 2) is the column's coordinate:
fine at the nose, coarse behind the ears, and free of trigonometry. Negative R2
means that there is no surface (above the crown, below the jaw).

The maths of one frame is written for NumPy and JAX: `namespace` tells which.
"""

import numpy as np

NS, NY = 192, 192
S_MAX, Y_MIN, Y_MAX = 0.78, -1.65, 2.35
S = np.linspace(-S_MAX, S_MAX, NS, dtype=np.float32)
Y = np.linspace(Y_MIN, Y_MAX, NY, dtype=np.float32)
THETA = (2 * np.arctan(S / (1 - np.abs(S)))).astype(np.float32)  # [NS] rad


def namespace(x):
    """The module that computes with x: numpy for numbers and NumPy's own arrays.

    Of JAX arrays it is jax.numpy, which this package need not import for that.
    """
    if isinstance(x, float | int | np.ndarray | np.generic):
        return np
    return x.__array_namespace__()


def take(table, at):
    """Rows of a table. Indices must be good: neither namespace then checks them."""
    return namespace(table).take(table, at, axis=0, mode="clip")


def grid_position(x, y, z):
    """Fractional (row, column) of points on the grid, clipped inside it."""
    xp = namespace(x)
    column = x / (xp.sqrt(x * x + z * z) + z + xp.abs(x) + 1e-6)
    column = (column + S_MAX) * ((NS - 1) / (2 * S_MAX))
    row = (y - Y_MIN) * ((NY - 1) / (Y_MAX - Y_MIN))
    return xp.clip(row, 0, NY - 1.01), xp.clip(column, 0, NS - 1.01)


def lookup(table, row, column):
    """Bilinear value of a flat table [NY * NS] or [NY * NS, C] at grid positions."""
    i, j = row.astype(np.int32), column.astype(np.int32)
    # Through float32: a difference with int32 would be float64.
    v, h = row - i.astype(np.float32), column - j.astype(np.float32)
    if table.ndim == 2:
        v, h = v[..., None], h[..., None]
    at = i * NS + j
    a, b = take(table, at), take(table, at + 1)
    c, d = take(table, at + NS), take(table, at + (NS + 1))
    a = a + (b - a) * h
    c = c + (d - c) * h
    return a + (c - a) * v


def slopes(table):
    """Slopes of a table [NY, NS] along y and along theta; 0 on its border."""
    xp = namespace(table)
    dy = (Y_MAX - Y_MIN) / (NY - 1)
    along_y = xp.pad((table[2:] - table[:-2]) / (2 * dy), ((1, 1), (0, 0)))
    dtheta = THETA[2:] - THETA[:-2]
    along_theta = xp.pad((table[:, 2:] - table[:, :-2]) / dtheta, ((0, 0), (1, 1)))
    return along_y, along_theta


def normals(x, z, slope_y, slope_theta):
    """Unit normals [3, P] of rho^2 = R2 at points: the gradient of the difference."""
    xp = namespace(x)
    rho2 = xp.maximum(x * x + z * z, 0.01)
    out = xp.stack(
        [2 * x - slope_theta * z / rho2, -slope_y, 2 * z + slope_theta * x / rho2]
    )
    return out / (xp.sqrt((out * out).sum(0)) + 1e-6)


def outside(table, origin, ray, t, *, nearest):
    """rho^2 - R2 of the points origin + t ray: negative inside the surface. [P]"""
    x, y, z = (origin[c] + t * ray[c] for c in range(3))
    row, column = grid_position(x, y, z)
    if not nearest:
        return x * x + z * z - lookup(table, row, column)
    at = row.astype(np.int32) * NS + column.astype(np.int32)
    return x * x + z * z - take(table, at)


def search(table, origin, ray, near, far, steps, *, nearest):
    """The first of `steps` equal steps along each ray that ends inside the surface.

    Args:
      table: R2, flat [NY * NS].
      origin: ray origin [3]; ray: directions [3, P].
      near, far: ray parameters between which to look, numbers or [P].
      nearest: read one cell of the table, which is quicker and coarser.

    Returns:
      found: bool [P]; t: ray parameter before that step [P], meaningful where found.
    """
    xp = namespace(ray)
    step = (far - near) / steps
    start = t = near + xp.zeros_like(ray[0])
    found = xp.zeros(t.shape, bool)
    for _ in range(steps):
        t = t + step
        inside = outside(table, origin, ray, t, nearest=nearest) < 0
        start = xp.where(inside & ~found, t - step, start)
        found = found | inside
    return found, start


def meet(table, origin, ray, start, step, hold):
    """Where rays that are inside a step after `start` meet the surface: t [P].

    For `hold` see `synthetic_frame.draw_frame`.
    """
    xp = namespace(ray)
    low, high = start, start + step
    f_low = outside(table, origin, ray, low, nearest=False)
    f_high = outside(table, origin, ray, high, nearest=False)
    low, high, f_low, f_high = hold((low, high, f_low, f_high))
    for _ in range(3):
        # False position, kept off the ends so that a steep end cannot stall it.
        part = xp.clip(f_low / (f_low - f_high + 1e-9), 0.08, 0.92)
        t = low + (high - low) * part
        f = outside(table, origin, ray, t, nearest=False)
        inside = f < 0
        high, f_high = xp.where(inside, t, high), xp.where(inside, f, f_high)
        low, f_low = xp.where(inside, low, t), xp.where(inside, f_low, f)
        low, high, f_low, f_high = hold((low, high, f_low, f_high))
    return low + (high - low) * xp.clip(f_low / (f_low - f_high + 1e-9), 0, 1)


def spread(values, pick):
    """`pick` (minimum or maximum) of every value [H, W] and its eight neighbours."""
    xp = namespace(values)
    for axis in (0, 1):
        first = values[:1] if axis == 0 else values[:, :1]
        last = values[-1:] if axis == 0 else values[:, -1:]
        wide = xp.concatenate([first, values, last], axis)
        size = values.shape[axis]
        if axis == 0:
            values = pick(pick(wide[:size], wide[2:]), values)
        else:
            values = pick(pick(wide[:, :size], wide[:, 2:]), values)
    return values


# Shadows are soft: half the grid's resolution carries them.
_Y2, _THETA2 = Y[::2, None], THETA[None, ::2]
_SIN2, _COS2 = np.sin(_THETA2), np.cos(_THETA2)


def shadows(table, slope_y, slope_theta, light):
    """How much of the key light arrives at the surface, [NY, NS] in [0, 1].

    A short march from every point to the light [3].
    """
    xp = namespace(table)
    radius = xp.sqrt(xp.maximum(table[::2, ::2], 1e-4))
    x, y, z = radius * _SIN2, _Y2 + xp.zeros_like(radius), radius * _COS2
    normal = normals(x, z, slope_y[::2, ::2], slope_theta[::2, ::2])
    flat = table.reshape(-1)
    clear = xp.ones_like(x)
    for t in (0.05, 0.11, 0.19, 0.30, 0.45):
        px, py, pz = (
            v + t * light[c] + 0.02 * normal[c] for c, v in enumerate((x, y, z))
        )
        inside = lookup(flat, *grid_position(px, py, pz)) - px * px - pz * pz
        clear = xp.minimum(clear, 1 - 2.2 * inside / (t + 0.05))
    clear = xp.clip(clear, 0, 1)
    # Back to full size: the values in between are means of their neighbours.
    for axis in (0, 1):
        after = xp.concatenate(
            [clear[1:], clear[-1:]] if axis == 0 else [clear[:, 1:], clear[:, -1:]],
            axis,
        )
        shape = (NY, NS // 2) if axis == 0 else (NY, NS)
        clear = xp.stack([clear, 0.5 * (clear + after)], axis + 1).reshape(shape)
    return clear

"""Colour of the synthetic heads: skin, features, light, clothes, background.

Colours are linear light [3, ...]. Names as in `synthetic_person`; `soft` is the side
of a pixel in decimetres. For NumPy and JAX alike: `mix` and augmented assignments
write into NumPy's arrays and rebind JAX's, so results are always returned.
"""

import numpy as np

from data_pipeline.synthetic_grid import namespace
from data_pipeline.synthetic_person import (
    brow_line,
    lid_lines,
    mouth_half,
    mouth_lines,
)

FRAME = 3.14  # decimetres of the plane through the ears that a frame shows


def rgb(*values):
    return np.float32(values).reshape(3, 1)


_LESS_GREEN_BLUE = rgb(0.03, -0.13, -0.11)  # what blood does to the skin's colour
_IVORY, _MOUTH, _TONGUE = (
    rgb(0.62, 0.56, 0.46),
    rgb(0.040, 0.008, 0.008),
    rgb(0.144, 0.038, 0.038),
)
_WHITE, _PUPIL, _LASH = (
    rgb(0.66, 0.60, 0.57),
    rgb(0.006, 0.005, 0.005),
    rgb(0.012, 0.009, 0.008),
)
_WRAP = rgb(0.30, 0.18, 0.12)  # light scatters in skin, red the furthest


def mix(colour, over, cover):
    """Colour [3, ...] with `over` painted on it where cover is 1."""
    colour += cover * (over - colour)
    return colour


def edge(distance, soft):
    """1 inside (distance > 0), 0 outside, soft over `soft` decimetres."""
    return namespace(distance).clip(distance / soft + 0.5, 0, 1)


def bell(x):
    return namespace(x).exp(-(x * x))


def column(colour):
    """A colour [3] to be painted on [3, P]."""
    return colour.reshape(3, 1)


def paint_face(p, m, x, y, front, paint, soft):
    """Skin, brows, eyes and mouth on the surface at (x, y) [P].

    Args:
      front: where the face is, [P] in [0, 1].
      paint: strand noise, redness, beard, [P] each.

    Returns:
      Colour [3, P] and gloss [P].
    """
    xp = namespace(x)
    strands, red, beard = paint
    ax = xp.abs(x)
    gloss = 0.10 * p["gloss"] * (1 - beard)
    colour = column(p["skin"]) * (1 + _LESS_GREEN_BLUE * red)
    colour = mix(colour, 0.9 * column(p["brow_colour"]), 0.8 * beard)
    y_side = y - p["asymmetry"] * xp.sign(x)

    brow_y, thick, inner, outer = brow_line(p, m, ax)
    brow = xp.clip(1.25 - xp.abs(y_side - brow_y) / thick, 0, 1) * front
    brow *= xp.clip((ax - inner + 0.03) / 0.07, 0, 1)
    brow *= xp.clip((outer + 0.02 - ax) / 0.08, 0, 1)
    brow *= 0.85 + 0.12 * xp.clip(strands, -1, 1)
    colour = mix(colour, column(p["brow_colour"]), brow)
    mouth = (ax < 0.50) & (xp.abs(y - p["mouth_y"] - 0.1) < 0.5)
    colour, gloss = _where(
        mouth, _paint_mouth, p, m, colour, gloss, soft, (x, y, front)
    )
    eyes = (xp.abs(ax - p["eye_x"]) < 0.26) & (xp.abs(y_side) < 0.30)
    colour, gloss = _where(
        eyes, _paint_eyes, p, m, colour, gloss, soft, (x, y_side, front)
    )

    # Nostrils.
    ny = p["nose_y"] + 0.105
    hole = ((ax - 0.48 * p["nose_half"]) / 0.050) ** 2 + ((y - ny) / 0.026) ** 2
    colour *= 1 - 0.85 * xp.exp(-hole * xp.sqrt(hole)) * front
    return colour, gloss


def _where(near, paint, p, m, colour, gloss, soft, place):
    """`paint` where `near` [P]; elsewhere it would change nothing. NumPy skips that."""
    if namespace(colour) is not np:
        return paint(p, m, colour, gloss, soft, *place)
    near = np.flatnonzero(near)
    colour[:, near], gloss[near] = paint(
        p, m, colour[:, near], gloss[near], soft, *(v[near] for v in place)
    )
    return colour, gloss


def _paint_mouth(p, m, colour, gloss, soft, x, y, front):
    """Lips between the outer lines, teeth and tongue between the inner ones."""
    xp = namespace(x)
    ax = xp.abs(x)
    top, upper, lower, bottom = mouth_lines(p, m, x)
    half, gap = mouth_half(p, m), lower - upper
    corner = edge(half + 0.008 - ax, 0.016) * front
    lips = edge(y - top, soft + 0.02) * edge(bottom - y, soft + 0.02) * corner
    body = xp.clip((y - top) / (bottom - top + 1e-3), 0, 1)
    on_lower = (y > lower).astype(np.float32)
    relief = 0.85 + (0.105 + 0.195 * on_lower) * (1 - xp.abs(2 * body - 1))
    colour = mix(colour, column(p["lip"]) * relief, 0.92 * lips)
    gloss += 0.06 * lips * on_lower
    middle = y - 0.5 * (upper + lower)
    seam = bell(middle / 0.014) * corner * xp.exp(-gap / 0.03)
    colour = mix(colour, 0.12 * column(p["lip"]), 0.75 * seam)
    # The corners lie in the shadow of the cheeks.
    pit = bell((ax - half) / 0.030) * bell(middle / 0.022)
    colour *= 1 - 0.45 * pit * front

    hollow = edge(y - upper, soft) * edge(lower - y, soft) * corner
    hollow *= xp.clip(gap / 0.015, 0, 1)
    depth = xp.clip((y - upper) / xp.maximum(gap, 1e-3), 0, 1)
    tongue = xp.clip((depth - 0.55) / 0.3, 0, 1) * xp.exp(-((x / (0.6 * half)) ** 4))
    inside = mix(_MOUTH + 0 * colour, _TONGUE, tongue)
    teeth = edge(upper + 0.075 - 0.1 * x * x - y, soft + 0.01)
    teeth *= edge(0.72 * half - ax, 0.06)
    ivory = 1 - 0.25 * bell(((ax + 0.035) % 0.07 - 0.035) / 0.008)
    ivory *= xp.clip((y - upper + 0.03) / 0.06, 0.3, 1)
    inside = mix(inside, _IVORY * ivory, teeth)
    return mix(colour, inside, hollow), gloss * (1 - 0.8 * hollow)


def _paint_eyes(p, m, colour, gloss, soft, x, y, front):
    """Both eyes at once: ex runs outwards from the centre of the eye."""
    xp = namespace(x)
    ex, width = xp.abs(x) - p["eye_x"], p["eye_half"]
    lid, low = lid_lines(p, m, ex)
    inside = edge(y - lid, soft) * edge(low - y, soft)
    inside *= edge(width + 0.01 - xp.abs(ex), 0.02) * front
    gx = xp.sign(x) * ex - 0.055 * m["gaze_x"]
    gy = y + 0.008 - 0.035 * m["gaze_y"]
    r = xp.sqrt(gx * gx + gy * gy)
    part = xp.clip(r / p["iris"], 0, 1)
    ring = 0.45 + 0.9 * part - 0.75 * part**6
    eye = _WHITE + 0 * colour
    eye = mix(eye, column(p["iris_colour"]) * ring, edge(p["iris"] - r, 0.012 + soft))
    eye = mix(eye, _PUPIL, edge(0.42 * p["iris"] - r, 0.010 + soft))
    round_ = 1 - 0.25 * xp.abs(ex / width) ** 3
    eye *= round_ * xp.clip(0.55 + (y - lid) / 0.07, 0, 1)
    spark_x = gx - 0.022 * xp.sign(p["light"][0])
    eye += 0.8 * bell(spark_x / 0.013) * bell((gy + 0.024) / 0.013)
    colour = mix(colour, eye, inside)
    near = xp.exp(-((ex / (1.12 * width)) ** 8)) * front
    colour = mix(colour, _LASH, p["lashes"] * bell((y - lid + 0.004) / 0.017) * near)
    crease = p["crease"] * bell((y - lid + 0.055) / 0.016) * near
    waterline = 0.28 * bell((y - low - 0.006) / 0.014) * near
    colour *= (1 - crease) * (1 - waterline)
    return colour, gloss * (1 - inside)


def shade(p, colour, normal, view, light, gloss, shadow):
    """Soft skin-like Lambert with a highlight; colour, normal, view [3, P] -> [3, P]."""
    xp = namespace(colour)
    facing = normal[0] * light[0] + normal[1] * light[1] + normal[2] * light[2]
    sky = 0.80 - 0.28 * normal[1] + 0.12 * normal[2]
    half_way = light[:, None] - view
    half_way = half_way / (xp.sqrt((half_way * half_way).sum(0)) + 1e-6)
    spec = xp.clip((normal * half_way).sum(0), 0, 1) ** 2
    spec *= spec
    spec *= spec
    spec = gloss * (0.6 * spec + (spec * spec) ** 2) * shadow
    ambient, key = column(p["ambient"]), column(p["key"])
    diffuse = xp.clip((facing + _WRAP) / (1 + _WRAP), 0, None) * shadow
    return colour * (ambient * sky + key * diffuse) + key * spec


def backdrop(p, n):
    """Blurred background [3, n, n]: a gradient with soft blobs and bars."""
    xp = namespace(p["blobs"])
    t = (np.arange(n, dtype=np.float32) + 0.5) / n
    x, y = t[None], t[:, None]
    colours = p["backdrop"][:, :, None, None]
    out = (
        colours[0]
        * (1.15 - 0.35 * y)
        * (1 + 0.25 * (x - 0.5) * (p["blobs"][0, 0] - 0.5))
    )
    for i in range(8):
        cx, cy, sx, sy, strength, kind = p["blobs"][i]
        sx, sy = 0.06 + 0.35 * sx * sx, 0.06 + 0.5 * sy
        dx, dy = (x - cx) / sx, (y - cy) / sy
        # A soft-edged box (window, shelf, door), or a blob.
        box = edge(1 - xp.abs(dx), 0.12) * edge(1 - xp.abs(dy), 0.12)
        cover = xp.where(kind < 0.4, box, bell(dx) * bell(dy))
        out = out + 0.8 * strength * cover * (colours[i + 1] - out)
    return out.astype(np.float32)


def draw_trunk(p, m, picture, wx, wy, head_at, soft):
    """Neck, shoulders and clothes over rows of a picture [3, R, W].

    wx [1, W], wy [R, 1] are places on the plane through the ears, dm; head_at is
    where the top of the neck is.

    Returns:
      The picture, and the depth of what it shows of the trunk, dm [R, W].
    """
    xp = namespace(wy)
    base_x = m["shift_x"] * FRAME * 0.8
    y = wy + p["frame_y"] - m["shift_y"] * FRAME * 0.8
    collar, light = p["collar_y"], p["light"]
    down = xp.clip((y - (head_at[1] + p["frame_y"])) / 0.9, 0, 1)
    cx = head_at[0] + (base_x - head_at[0]) * down
    half = p["neck"] + 0.30 * xp.clip((y - collar + 0.30) / 0.5, 0, 1) ** 2
    nx = (wx - cx) / half
    neck = edge((1 - xp.abs(nx)) * half, soft + 0.01)
    neck *= wy > head_at[1] - 0.1  # the neck ends inside the head
    nz = xp.sqrt(xp.clip(1 - nx * nx, 0.02, 1))
    normal = xp.stack([nx, 0.10 + 0 * nx, nz])
    # The chin's shadow lies on the top of the neck, further down for a high key.
    reach = 1.32 + 0.25 * xp.clip(-light[1], 0, 1) + 0.25 * m["mouth_open"]
    shadow = xp.clip((y - reach + 0.25 * nx * light[0]) / 0.35, 0, 1)
    cord = bell((xp.abs(nx) - 0.15 - 0.5 * (1 - down)) / 0.12) * down
    dark = (0.62 + 0.38 * shadow) * (1 - 0.10 * cord)
    colour = p["skin"].reshape(3, 1, 1) * dark
    lit = _shade_flat(p, colour, normal, 0.02, 0.25 + 0.75 * shadow)
    picture = mix(picture, lit, neck)
    depth = xp.where(neck > 0.5, half * nz - 0.25, -9)

    ax = xp.abs(wx - base_x)
    wide, slope = p["shoulder"]
    open_, deep = p["neckline"]
    out = xp.clip(ax - 0.45, 0, None)
    shoulder = (
        collar - 0.02 + slope * out + 2.5 * xp.clip(ax - wide + 0.25, 0, None) ** 2
    )
    cut = deep * xp.clip(1 - (ax / open_) ** 2, 0, None)
    fall = y - shoulder - cut
    cloth = edge(fall, soft + 0.015)
    normal = xp.stack([
        0.75 * xp.clip((wx - base_x) / wide, -1, 1) + 0 * y,
        -0.75 * xp.exp(-xp.clip(y - shoulder, 0, 9) / 0.22) * (ax > 0.3),
        0.7 + 0 * fall,
    ])  # fmt: skip
    lapel = 0.42 - 0.45 * (y - collar) - ax
    colour = p["cloth"].reshape(3, 1, 1) + 0 * fall
    shirt = p["jacket"] * edge(lapel, soft + 0.01)
    colour = mix(colour, p["cloth_inner"].reshape(3, 1, 1), shirt)
    colour *= 1 - p["jacket"] * 0.45 * bell(lapel / 0.02)
    colour *= 1 - 0.35 * xp.exp(-xp.clip(fall, 0, 9) / 0.035)
    picture = mix(picture, _shade_flat(p, colour, normal, 0.0, 1.0), cloth)
    return picture, xp.where(cloth > 0.5, 0.30 - 0.2 * ax, depth).astype(np.float32)


def _shade_flat(p, colour, normal, gloss, shadow):
    """`shade` of [3, R, W] seen straight from the front, as [3, R, W]."""
    xp = namespace(normal)
    shape = normal.shape
    normal = normal / xp.sqrt((normal * normal).sum(0))
    view = np.float32([[0], [0], [-1]])
    if shadow is not None and not isinstance(shadow, float):
        shadow = (shadow + 0 * normal[0]).reshape(-1)
    colour = (colour + 0 * normal).reshape(3, -1)
    lit = shade(p, colour, normal.reshape(3, -1), view, p["light"], gloss, shadow)
    return lit.reshape(shape)

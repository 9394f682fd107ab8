"""Colour of the synthetic heads: skin, features, light, clothes, background.

Colours are linear light [3, ...]; painting happens in place. Names as in
`synthetic_person`; `soft` is the side of a pixel in decimetres.
"""

import numpy as np

from data_pipeline.synthetic_person import (
    brow_line,
    lid_lines,
    mouth_half,
    mouth_lines,
)

FRAME = 3.14  # decimetres of the plane through the ears that a frame shows


def mix(colour, over, cover):
    """Paint `over` [3] or [3, P] on colour [3, P], in place; cover [P] in [0, 1]."""
    over = np.asarray(over, np.float32)
    colour += cover * (over.reshape(3, -1) - colour)


def edge(distance, soft):
    """1 inside (distance > 0), 0 outside, soft over `soft` decimetres."""
    return np.clip(distance / soft + 0.5, 0, 1)


def paint_face(p, m, colour, x, y, front, paint, soft):
    """Skin, brows, eyes and mouth on the surface at (x, y), in place.

    Returns the gloss of each pixel [P].
    """
    _, strands, _, red, beard = paint
    ax = np.abs(x)
    gloss = np.full(x.shape, 0.10 * p["gloss"], np.float32)
    colour[0] *= 1 + 0.03 * red
    colour[1] *= 1 - 0.13 * red
    colour[2] *= 1 - 0.11 * red
    mix(colour, p["brow_colour"] * 0.9, 0.8 * beard)
    gloss *= 1 - beard
    y_side = y - p["asymmetry"] * np.sign(x)

    brow_y, thick, inner, outer = brow_line(p, m, ax)
    off = np.abs(y_side - brow_y)
    brow = np.clip(1.25 - off / thick, 0, 1) * np.clip((ax - inner + 0.03) / 0.07, 0, 1)
    brow *= np.clip((outer + 0.02 - ax) / 0.08, 0, 1) * front
    mix(colour, p["brow_colour"], brow * (0.85 + 0.12 * strands.clip(-1, 1)))

    # Mouth: lips between the outer lines, the hollow between the inner ones.
    top, upper, lower, bottom = mouth_lines(p, m, x)
    half = mouth_half(p, m)
    corner = edge(half + 0.008 - ax, 0.016) * front
    lips = edge(y - top, soft + 0.02) * edge(bottom - y, soft + 0.02) * corner
    body = np.clip((y - top) / (bottom - top + 1e-3), 0, 1)
    lip_shade = 0.85 + 0.30 * np.where(y > lower, 1.0, 0.35) * (
        1 - np.abs(2 * body - 1)
    )
    mix(colour, p["lip"].reshape(3, 1) * lip_shade, 0.92 * lips)
    gloss += 0.06 * lips * (y > lower)
    seam = np.exp(-(((y - 0.5 * (upper + lower)) / 0.014) ** 2)) * corner
    seam *= np.exp(-((lower - upper) / 0.03))
    mix(colour, 0.12 * p["lip"], 0.75 * seam)
    # The corners lie in the shadow of the cheeks.
    corner_y = 0.5 * (upper + lower)
    pit = ((ax - half) / 0.030) ** 2 + ((y - corner_y) / 0.022) ** 2
    colour *= 1 - 0.45 * np.exp(-pit) * front
    if m["mouth_open"] > 0.01:
        gap = lower - upper
        hollow = edge(y - upper, soft) * edge(lower - y, soft) * corner
        hollow *= np.clip(gap / 0.015, 0, 1)
        inside = np.empty_like(colour)
        depth = np.clip((y - upper) / np.maximum(gap, 1e-3), 0, 1)
        tongue = np.clip((depth - 0.55) / 0.3, 0, 1) * np.exp(
            -((x / (0.6 * half)) ** 4)
        )
        for c, (dark, wet) in enumerate(
            [(0.040, 0.17), (0.008, 0.045), (0.008, 0.045)]
        ):
            inside[c] = dark + (wet - dark) * tongue * 0.8
        teeth_y = upper + 0.075 - 0.1 * x * x
        between = 1 - 0.25 * np.exp(-((((ax + 0.035) % 0.07 - 0.035) / 0.008) ** 2))
        teeth = edge(teeth_y - y, soft + 0.01) * edge(0.72 * half - ax, 0.06)
        ivory = np.array([[0.62], [0.56], [0.46]], np.float32) * between
        mix(inside, ivory * np.clip((y - upper + 0.03) / 0.06, 0.3, 1), teeth)
        mix(colour, inside, hollow)
        gloss *= 1 - 0.8 * hollow

    # Eyes, both at once: ex runs outwards from the centre of the eye.
    ex = ax - p["eye_x"]
    width = p["eye_half"]
    lid, low = lid_lines(p, m, ex)
    inside = edge(y_side - lid, soft) * edge(low - y_side, soft)
    inside *= edge(width + 0.01 - np.abs(ex), 0.02) * front
    gx = np.sign(x) * ex - 0.055 * m["gaze_x"]
    gy = y_side + 0.008 - 0.035 * m["gaze_y"]
    r = np.sqrt(gx * gx + gy * gy)
    eye = np.empty_like(colour)
    round_ = 1 - 0.25 * (np.abs(ex) / width) ** 3
    round_ *= np.clip(0.55 + (y_side - lid) / 0.07, 0, 1)
    for c, white in enumerate((0.66, 0.60, 0.57)):
        eye[c] = white
    iris = edge(p["iris"] - r, 0.012 + soft)
    ring = (
        0.45
        + 0.9 * np.clip(r / p["iris"], 0, 1)
        - 0.75 * np.clip(r / p["iris"], 0, 1) ** 6
    )
    mix(eye, p["iris_colour"].reshape(3, 1) * ring, iris)
    mix(eye, [0.006, 0.005, 0.005], edge(0.42 * p["iris"] - r, 0.010 + soft))
    eye *= round_
    lx, ly = 0.022 * np.sign(p["light"][0]), -0.024
    spark = np.exp(-((gx - lx) ** 2 + (gy - ly) ** 2) / 0.013**2)
    eye += 0.8 * spark
    mix(colour, eye, inside)
    gloss *= 1 - inside
    near = np.exp(-((ex / (1.12 * width)) ** 8)) * front
    lashes = np.exp(-(((y_side - lid + 0.004) / 0.017) ** 2)) * near
    mix(colour, [0.012, 0.009, 0.008], 0.85 * lashes)
    crease = np.exp(-(((y_side - lid + 0.055) / 0.016) ** 2)) * near
    colour *= 1 - 0.30 * crease
    waterline = np.exp(-(((y_side - low - 0.006) / 0.014) ** 2)) * near
    colour *= 1 - 0.28 * waterline
    # Nostrils.
    ny = p["nose_y"] + 0.105
    hole = ((ax - 0.48 * p["nose_half"]) / 0.050) ** 2 + ((y - ny) / 0.026) ** 2
    colour *= 1 - 0.85 * np.exp(-(hole**1.5)) * front
    return gloss


def shade(p, colour, normal, view, light, gloss, shadow):
    """Soft skin-like Lambert with a highlight; colour [3, P] in place."""
    facing = normal[0] * light[0] + normal[1] * light[1] + normal[2] * light[2]
    sky = 0.80 - 0.28 * normal[1] + 0.12 * normal[2]
    half_way = light[:, None] - view
    half_way /= np.sqrt((half_way**2).sum(0)) + 1e-6
    spec = np.clip((normal * half_way).sum(0), 0, 1)
    spec = spec**2
    spec = spec**2
    spec = spec**2
    spec = gloss * (0.6 * spec + spec**4) * shadow
    for c, wrap in enumerate((0.30, 0.18, 0.12)):
        diffuse = np.clip((facing + wrap) / (1 + wrap), 0, None) * shadow
        colour[c] *= p["ambient"][c] * sky + p["key"][c] * diffuse
        colour[c] += p["key"][c] * spec


def backdrop(p, n):
    """Blurred background [3, n, n]: a gradient with soft blobs and bars."""
    t = (np.arange(n, dtype=np.float32) + 0.5) / n
    x, y = t[None], t[:, None]
    colours = p["backdrop"][:, :, None, None]
    out = (
        colours[0]
        * (1.15 - 0.35 * y)
        * (1 + 0.25 * (x - 0.5) * (p["blobs"][0, 0] - 0.5))
    )
    for (cx, cy, sx, sy, strength, kind), colour in zip(p["blobs"], colours[1:]):
        sx, sy = 0.06 + 0.35 * sx * sx, 0.06 + 0.5 * sy
        dx, dy = (x - cx) / sx, (y - cy) / sy
        if kind < 0.4:  # a soft-edged box: window, shelf, door
            cover = edge(1 - np.abs(dx), 0.12) * edge(1 - np.abs(dy), 0.12)
        else:
            cover = np.exp(-dx * dx - dy * dy)
        out = out + 0.8 * strength * cover * (colour - out)
    return out.astype(np.float32)


def draw_trunk(p, m, picture, depth, wx, wy, head_at, soft):
    """Neck, shoulders and clothes on the rows [3, R, W] of the picture, in place.

    wx [1, W], wy [R, 1] are places on the plane through the ears, dm; head_at is
    where the top of the neck is. Writes world depth into `depth` [R, W].
    """
    base_x = m["shift_x"] * FRAME * 0.8
    y = wy + p["frame_y"] - m["shift_y"] * FRAME * 0.8
    collar = p["collar_y"]
    down = np.clip((y - (head_at[1] + p["frame_y"])) / 0.9, 0, 1)
    cx = head_at[0] + (base_x - head_at[0]) * down
    half = p["neck"] + 0.30 * np.clip((y - collar + 0.30) / 0.5, 0, 1) ** 2
    nx = (wx - cx) / half
    neck = edge((1 - np.abs(nx)) * half, soft + 0.01)
    nz = np.sqrt(np.clip(1 - nx * nx, 0.02, 1))
    normal = np.stack(np.broadcast_arrays(nx, 0.10 + 0 * nx, nz))
    normal /= np.sqrt((normal**2).sum(0))
    colour = np.repeat(p["skin"][:, None], nx.size, 1).reshape(normal.shape)
    # The chin's shadow lies on the top of the neck, further down for a high key.
    reach = 1.32 + 0.25 * np.clip(-p["light"][1], 0, 1) + 0.25 * m["mouth_open"]
    shadow = np.clip((y - reach + 0.25 * nx * p["light"][0]) / 0.35, 0, 1)
    colour *= 0.62 + 0.38 * shadow
    cord = np.exp(-(((np.abs(nx) - 0.15 - 0.5 * (1 - down)) / 0.12) ** 2)) * down
    colour *= 1 - 0.10 * cord
    flat = (3, -1)
    view = np.array([[0], [0], [-1]], np.float32)
    lit = colour.reshape(flat).copy()
    shade(p, lit, normal.reshape(flat), view, p["light"], 0.02,
           (0.25 + 0.75 * shadow).reshape(-1))  # fmt: skip
    lit = lit.reshape(colour.shape)
    picture += neck * (lit - picture)
    depth[:] = np.where(neck > 0.5, half * nz - 0.25, depth)

    ax = np.abs(wx - base_x)
    wide, slope = p["shoulder"]
    open_, deep = p["neckline"]
    out = np.clip(ax - 0.45, 0, None)
    shoulder = (
        collar - 0.02 + slope * out + 2.5 * np.clip(ax - wide + 0.25, 0, None) ** 2
    )
    cut = deep * np.clip(1 - (ax / open_) ** 2, 0, None)
    fall = y - shoulder - cut
    cloth = edge(fall, soft + 0.015)
    normal = np.stack(
        np.broadcast_arrays(
            0.75 * np.clip((wx - base_x) / wide, -1, 1),
            -0.75 * np.exp(-np.clip(y - shoulder, 0, 9) / 0.22) * (ax > 0.3),
            0.7 + 0 * y,
        )
    )
    normal = normal / np.sqrt((normal**2).sum(0))
    colour = np.repeat(p["cloth"][:, None], fall.size, 1).reshape(normal.shape)
    if p["jacket"]:
        shirt = edge(0.42 - 0.45 * (y - collar) - ax, soft + 0.01)
        colour += shirt * (p["cloth_inner"][:, None, None] - colour)
        colour *= 1 - 0.45 * np.exp(-(((0.42 - 0.45 * (y - collar) - ax) / 0.02) ** 2))
    colour *= 1 - 0.35 * np.exp(-np.clip(fall, 0, 9) / 0.035)
    lit = np.ascontiguousarray(colour.reshape(flat))
    shade(p, lit, normal.reshape(flat).astype(np.float32), view, p["light"], 0.0, 1.0)
    picture += cloth * (lit.reshape(colour.shape) - picture)
    depth[:] = np.where(cloth > 0.5, 0.30 - 0.2 * ax, depth)

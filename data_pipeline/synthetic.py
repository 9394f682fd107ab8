"""Rendered heads of random people, with exact 68-point landmarks.

A dataset without a download: the meta-learner trains on it, tests and demos run
on it. Every pixel's ray meets a 3-D surface (`synthetic_head`), so a turn of the
head moves the nose more than the ears and hides what it should.

Pixel convention: the centre of the top-left pixel is (0, 0), so a frame spans
[-0.5, size - 0.5]; at another size s' a point x goes to (x + 0.5) s'/s - 0.5.
Numpy only, float32, deterministic by seed.
"""

import numpy as np

from data_pipeline import synthetic_head as geometry
from data_pipeline.synthetic_head import Params, sample_identity
from data_pipeline.synthetic_motion import (
    MOTION_KEYS,
    neutral_motion,
    sample_motion,
    sample_poses,
)

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
_FRAME = 3.30  # decimetres of that plane that a frame shows at zoom 1
_PIVOT = np.array([0, 0.55, -0.10], np.float32)  # where the head turns on the neck
_NEAR, _FAR = 1.45, -0.85  # depths between which the head lies
_STEPS = 14


# ------------------------------------------------------------------- camera


def _camera(p: Params, m) -> tuple[np.ndarray, np.ndarray, float]:
    """Rotation [3, 3] head to world, the pivot's place [3], frame side in dm."""
    cy, sy = np.cos(m["yaw"]), np.sin(m["yaw"])
    cp, sp = np.cos(m["pitch"]), np.sin(m["pitch"])
    cr, sr = np.cos(m["roll"]), np.sin(m["roll"])
    yaw = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    pitch = np.array([[1, 0, 0], [0, cp, sp], [0, -sp, cp]])
    roll = np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]])
    shift = np.array([m["shift_x"], m["shift_y"], 0]) * _FRAME
    side = _FRAME * p["framing"] / m["zoom"]
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
    return _landmarks(identity, head, _frames_of(motion), size)[0]


def _landmarks(identity, head, frames, size):
    points, surfaces = np.zeros((len(frames), 68, 2), np.float32), []
    for f, m in enumerate(frames):
        surfaces.append(geometry.pose_surface(identity, head, m))
        on_head = geometry.head_landmarks(identity, surfaces[-1], m)
        points[f] = _project(on_head, *_camera(identity, m), size)
    return points, surfaces


# ------------------------------------------------------------------ surface


def _march(table, origin, ray, near, far):
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
        row, column = geometry.grid_position(x, y, z)
        if nearest:
            at = row.astype(np.int32) * geometry.NS + column.astype(np.int32)
            return x * x + z * z - table.take(at)
        return x * x + z * z - geometry.lookup(table, row, column)

    step = np.float32((far - near) / _STEPS)
    count = ray.shape[1]
    t_low = np.full(count, near, np.float32)
    found = np.zeros(count, bool)
    alive = np.arange(count)
    t = np.float32(near)
    rays = ray
    for _ in range(_STEPS):
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


def _gradients(table):
    """The table with its slopes along y and theta, [NY * NS, 3]."""
    out = np.zeros((*table.shape, 3), np.float32)
    out[..., 0] = table
    dy = (geometry.Y_MAX - geometry.Y_MIN) / (geometry.NY - 1)
    out[1:-1, :, 1] = (table[2:] - table[:-2]) / (2 * dy)
    dtheta = geometry.THETA[2:] - geometry.THETA[:-2]
    out[:, 1:-1, 2] = (table[:, 2:] - table[:, :-2]) / dtheta
    return out.reshape(-1, 3)


# -------------------------------------------------------------------- paint


def _mix(colour, over, cover):
    """Paint `over` [3] or [3, P] on colour [3, P], in place; cover [P] in [0, 1]."""
    over = np.asarray(over, np.float32)
    colour += cover * (over.reshape(3, -1) - colour)


def _edge(distance, soft):
    """1 inside (distance > 0), 0 outside, soft over `soft` decimetres."""
    return np.clip(distance / soft + 0.5, 0, 1)


def _paint_face(p, m, colour, x, y, front, paint, soft):
    """Skin, brows, eyes and mouth on the surface at (x, y), in place.

    Returns the gloss of each pixel [P].
    """
    _, strands, _, red, beard = paint
    ax = np.abs(x)
    gloss = np.full(x.shape, 0.10 * p["gloss"], np.float32)
    colour[0] *= 1 + 0.03 * red
    colour[1] *= 1 - 0.13 * red
    colour[2] *= 1 - 0.11 * red
    _mix(colour, p["brow_colour"] * 0.9, 0.8 * beard)
    gloss *= 1 - beard
    y_side = y - p["asymmetry"] * np.sign(x)

    brow_y, thick, inner, outer = geometry.brow_line(p, m, ax)
    off = np.abs(y_side - brow_y)
    brow = np.clip(1.25 - off / thick, 0, 1) * np.clip((ax - inner + 0.03) / 0.07, 0, 1)
    brow *= np.clip((outer + 0.02 - ax) / 0.08, 0, 1) * front
    _mix(colour, p["brow_colour"], brow * (0.78 + 0.12 * strands.clip(-1, 1)))

    # Mouth: lips between the outer lines, the hollow between the inner ones.
    top, upper, lower, bottom = geometry.mouth_lines(p, m, x)
    half = geometry.mouth_half(p, m)
    corner = _edge(half + 0.005 - ax, 0.03) * front
    lips = _edge(y - top, soft + 0.02) * _edge(bottom - y, soft + 0.02) * corner
    body = np.clip((y - top) / (bottom - top + 1e-3), 0, 1)
    lip_shade = 0.85 + 0.30 * np.where(y > lower, 1.0, 0.35) * (
        1 - np.abs(2 * body - 1)
    )
    _mix(colour, p["lip"].reshape(3, 1) * lip_shade, 0.85 * lips)
    gloss += 0.06 * lips * (y > lower)
    seam = np.exp(-(((y - 0.5 * (upper + lower)) / 0.014) ** 2)) * corner
    seam *= np.exp(-((lower - upper) / 0.03))
    _mix(colour, 0.12 * p["lip"], 0.75 * seam)
    if m["mouth_open"] > 0.01:
        gap = lower - upper
        hollow = _edge(y - upper, soft) * _edge(lower - y, soft) * corner
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
        teeth = _edge(teeth_y - y, soft + 0.01) * _edge(0.72 * half - ax, 0.06)
        ivory = np.array([[0.62], [0.56], [0.46]], np.float32) * between
        _mix(inside, ivory * np.clip((y - upper + 0.03) / 0.06, 0.3, 1), teeth)
        _mix(colour, inside, hollow)
        gloss *= 1 - 0.8 * hollow

    # Eyes, both at once: ex runs outwards from the centre of the eye.
    ex = ax - p["eye_x"]
    width = p["eye_half"]
    lid, low = geometry.lid_lines(p, m, ex)
    inside = _edge(y_side - lid, soft) * _edge(low - y_side, soft)
    inside *= _edge(width - np.abs(ex), 0.02) * front
    gx = np.sign(x) * ex - 0.055 * m["gaze_x"]
    gy = y_side + 0.008 - 0.035 * m["gaze_y"]
    r = np.sqrt(gx * gx + gy * gy)
    eye = np.empty_like(colour)
    round_ = 1 - 0.45 * (np.abs(ex) / width) ** 3
    round_ *= np.clip(0.55 + (y_side - lid) / 0.07, 0, 1)
    for c, white in enumerate((0.66, 0.60, 0.57)):
        eye[c] = white
    iris = _edge(p["iris"] - r, 0.012 + soft)
    ring = (
        0.45
        + 0.9 * np.clip(r / p["iris"], 0, 1)
        - 0.75 * np.clip(r / p["iris"], 0, 1) ** 6
    )
    _mix(eye, p["iris_colour"].reshape(3, 1) * ring, iris)
    _mix(eye, [0.006, 0.005, 0.005], _edge(0.42 * p["iris"] - r, 0.010 + soft))
    eye *= round_
    lx, ly = 0.022 * np.sign(p["light"][0]), -0.024
    spark = np.exp(-((gx - lx) ** 2 + (gy - ly) ** 2) / 0.013**2)
    eye += 0.8 * spark
    _mix(colour, eye, inside)
    gloss *= 1 - inside
    near = np.exp(-((ex / (1.12 * width)) ** 8)) * front
    lashes = np.exp(-(((y_side - lid + 0.004) / 0.017) ** 2)) * near
    _mix(colour, [0.012, 0.009, 0.008], 0.85 * lashes)
    crease = np.exp(-(((y_side - lid + 0.055) / 0.016) ** 2)) * near
    colour *= 1 - 0.30 * crease
    waterline = np.exp(-(((y_side - low - 0.006) / 0.014) ** 2)) * near
    colour *= 1 - 0.28 * waterline
    # Nostrils.
    ny = p["nose_y"] + 0.105
    hole = ((ax - 0.50 * p["nose_half"]) / 0.042) ** 2 + ((y - ny) / 0.020) ** 2
    colour *= 1 - 0.75 * np.exp(-hole) * front
    return gloss


def _shade(p, colour, normal, view, light, gloss, shadow):
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


# -------------------------------------------------------------- the picture


def _backdrop(p, n):
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
            cover = _edge(1 - np.abs(dx), 0.12) * _edge(1 - np.abs(dy), 0.12)
        else:
            cover = np.exp(-dx * dx - dy * dy)
        out = out + 0.8 * strength * cover * (colour - out)
    return out.astype(np.float32)


def _draw_trunk(p, m, picture, depth, wx, wy, head_at, soft):
    """Neck, shoulders and clothes on the rows [3, R, W] of the picture, in place.

    wx [1, W], wy [R, 1] are places on the plane through the ears, dm; head_at is
    where the top of the neck is. Writes world depth into `depth` [R, W].
    """
    base_x = m["shift_x"] * _FRAME * 0.8
    y = wy + p["frame_y"] - m["shift_y"] * _FRAME * 0.8
    collar = p["collar_y"]
    down = np.clip((y - (head_at[1] + p["frame_y"])) / 0.9, 0, 1)
    cx = head_at[0] + (base_x - head_at[0]) * down
    half = p["neck"] + 0.30 * np.clip((y - collar + 0.30) / 0.5, 0, 1) ** 2
    nx = (wx - cx) / half
    neck = _edge((1 - np.abs(nx)) * half, soft + 0.01)
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
    _shade(p, lit, normal.reshape(flat), view, p["light"], 0.02,
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
    cloth = _edge(fall, soft + 0.015)
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
        shirt = _edge(0.42 - 0.45 * (y - collar) - ax, soft + 0.01)
        colour += shirt * (p["cloth_inner"][:, None, None] - colour)
        colour *= 1 - 0.45 * np.exp(-(((0.42 - 0.45 * (y - collar) - ax) / 0.02) ** 2))
    colour *= 1 - 0.35 * np.exp(-np.clip(fall, 0, 9) / 0.035)
    lit = np.ascontiguousarray(colour.reshape(flat))
    _shade(p, lit, normal.reshape(flat).astype(np.float32), view, p["light"], 0.0, 1.0)
    picture += cloth * (lit.reshape(colour.shape) - picture)
    depth[:] = np.where(cloth > 0.5, 0.30 - 0.2 * ax, depth)


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
    hit, t = _march(
        outer.reshape(-1), origin, ray, 1 - _NEAR / _CAMERA, 1 - _FAR / _CAMERA
    )
    world_z = _CAMERA * (1 - t)
    # What the trunk hides is not shaded.
    hit &= world_z > depth[box].ravel()
    t, ray = t[hit], ray[:, hit]
    if not t.size:
        return
    x, y, z = origin[:, None] + t * ray
    row, column = geometry.grid_position(x, y, z)

    # Normal: the gradient of rho^2 - R2(theta, y).
    _, slope_y, slope_t = geometry.lookup(_gradients(outer), row, column).T
    rho2 = np.maximum(x * x + z * z, 0.01)
    normal = np.stack(
        [2 * x - slope_t * z / rho2, -slope_y, 2 * z + slope_t * x / rho2]
    )
    normal /= np.sqrt((normal**2).sum(0)) + 1e-6
    # Paint lies on the skin at rest: follow the jaw back.
    rest = np.interp(row, np.arange(geometry.NY), surface["rest_row"]).astype(
        np.float32
    )
    follow = head["follow"].take(column.astype(np.int32))
    paint = np.ascontiguousarray(
        geometry.lookup(head["paint"], row + follow * (rest - row), column).T
    )
    hair = geometry.lookup(head["paint"], row, column)[:, 0]
    hair = np.clip((hair - 0.04) / 0.25, 0, 1)

    colour = np.repeat(p["skin"][:, None], t.size, 1)
    front = np.clip((z - 0.15) / 0.15, 0, 1)
    gloss = _paint_face(p, m, colour, x, y, front, paint, np.float32(pixel))
    strands = paint[1]
    _mix(colour, p["hair_colour"][:, None] * (0.85 + 0.28 * strands).clip(0.3), hair)
    colour *= np.exp(-paint[2])
    gloss += hair * (0.10 * p["hair_gloss"] * (1 + strands).clip(0, 2) - gloss)

    light = rotation.T @ p["light"]
    shadow = _cast_shadow(outer.reshape(-1), x, y, z, normal, light)
    view = ray / np.sqrt((ray**2).sum(0))
    _shade(p, colour, normal, view, light, gloss, shadow)

    flat = np.flatnonzero(hit)
    at = (rows[0] + flat // shape[1]) * n + cols[0] + flat % shape[1]
    picture.reshape(3, -1)[:, at] = colour


def _cast_shadow(table, x, y, z, normal, light):
    """How much of the key light arrives, [P] in [0, 1]: a short march to the light."""
    clear = np.ones_like(x)
    for t in (0.05, 0.11, 0.19, 0.30, 0.45):
        px = x + t * light[0] + 0.02 * normal[0]
        py = y + t * light[1] + 0.02 * normal[1]
        pz = z + t * light[2] + 0.02 * normal[2]
        row, column = geometry.grid_position(px, py, pz)
        inside = geometry.lookup(table, row, column) - px * px - pz * pz
        np.minimum(clear, 1 - 2.2 * inside / (t + 0.05), out=clear)
    return np.clip(clear, 0, 1)


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
    _mix(
        picture.reshape(3, -1),
        p["glasses_colour"],
        _edge(0.017 - distance, side / n).ravel() * 0.95,
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
    landmarks, surfaces = _landmarks(p, head, frames, size)
    n = size * supersample
    backdrop = _backdrop(p, n)
    out = np.zeros((len(frames), size, size, 3), np.uint8)
    for f, (m, surface) in enumerate(zip(frames, surfaces)):
        rotation, place, side = _camera(p, m)
        picture = backdrop.copy()
        depth = np.full((n, n), -9, np.float32)
        plane = (np.arange(n, dtype=np.float32) + 0.5) * np.float32(
            side / n
        ) - 0.5 * side
        head_at = rotation @ (np.array([0, 0.75, -0.1], np.float32) - _PIVOT) + place
        first = int(np.searchsorted(plane, head_at[1] - 0.1))
        _draw_trunk(
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

"""One frame of a synthetic head: camera, rays, and the layers from back to front.

Written for NumPy and JAX: only which rays are computed differs. NumPy drops those
that miss; JAX, whose shapes are fixed, computes all and masks.
"""

import numpy as np

from data_pipeline import synthetic_grid as grid
from data_pipeline import synthetic_paint as painting
from data_pipeline.synthetic_grid import namespace
from data_pipeline.synthetic_landmarks import head_landmarks
from data_pipeline.synthetic_person import Params
from data_pipeline.synthetic_pose import pose_surface

CAMERA = 14.0  # decimetres from the camera to the plane through the ears
_PIVOT = np.array([0, 0.55, -0.10], np.float32)  # where the head turns on the neck
_NECK = np.array([0, 0.20, 0.0], np.float32)  # its top, from the pivot
_NEAR, _FAR = 1 - 1.45 / CAMERA, 1 + 0.85 / CAMERA  # rays meet the head between
_COARSE, _STEPS, _FINE_STEPS = 4, 26, 6
_GLASSES_Z = 1.02


# ------------------------------------------------------------------- camera


def _camera(p: Params, m):
    """Rotation [3, 3] head to world, the pivot's place [3], frame side in dm."""
    xp = namespace(m["yaw"])
    cy, sy = xp.cos(m["yaw"]), xp.sin(m["yaw"])
    cp, sp = xp.cos(m["pitch"]), xp.sin(m["pitch"])
    cr, sr = xp.cos(m["roll"]), xp.sin(m["roll"])
    zero, one = 0 * cy, 0 * cy + 1

    def matrix(*entries):
        return xp.stack(entries).reshape(3, 3).astype(np.float32)

    yaw = matrix(cy, zero, sy, zero, one, zero, -sy, zero, cy)
    pitch = matrix(one, zero, zero, zero, cp, sp, zero, -sp, cp)
    roll = matrix(cr, -sr, zero, sr, cr, zero, zero, zero, one)
    shift_y = m["shift_y"] * painting.FRAME - p["frame_y"]
    shift = xp.stack([m["shift_x"] * painting.FRAME + zero, shift_y + zero, zero])
    side = painting.FRAME * p["framing"] / m["zoom"]
    return roll @ pitch @ yaw, (_PIVOT + shift).astype(np.float32), side


def _project(points, rotation, place, side, size):
    """Head-frame points [N, 3] to pixels [N, 2]."""
    world = (points - _PIVOT) @ rotation.T + place
    plane = world[:, :2] * (CAMERA / (CAMERA - world[:, 2:]))
    return ((plane / side + 0.5) * size - 0.5).astype(np.float32)


def frame_points(p: Params, head, m):
    """Landmarks on the head itself, float32 [68, 3], from the point on which it turns."""
    skin, _ = pose_surface(p, head, m)
    return head_landmarks(p, skin, m, _camera(p, m)[0][0]) - _PIVOT


def frame_landmarks(p: Params, head, m, size: int):
    """Landmarks of one frame, float32 [68, 2], (x, y) pixels; see `draw_frame`."""
    skin, _ = pose_surface(p, head, m)
    camera = _camera(p, m)
    return _project(head_landmarks(p, skin, m, camera[0][0]), *camera, size)


# -------------------------------------------------------------- the picture


def draw_frame(
    p: Params, head, m, backdrop, size: int, supersample: int, hold=lambda x: x
):
    """One frame and its landmarks.

    Args:
      p: the person, numbers and arrays (no strings are read).
      head: from `synthetic_head.build_head`.
      m: one frame of a motion: numbers, or JAX scalars, which choose the namespace.
      backdrop: from `synthetic_paint.backdrop`, at size * supersample.
      hold: told of arrays that many pixels read, returns them: JAX's compiler would
        otherwise work them out again for every reader.

    Returns:
      uint8 [size, size, 3] RGB and float32 [68, 2], (x, y) pixels, iBUG order.
    """
    xp = namespace(m["yaw"])
    skin, paint = hold(pose_surface(p, head, m))
    rotation, place, side = camera = hold(_camera(p, m))
    points = head_landmarks(p, skin, m, rotation[0])

    n = size * supersample
    plane = ((np.arange(n, dtype=np.float32) + 0.5) / n - 0.5) * side
    neck = rotation @ _NECK + place
    # NumPy saves the rows above the neck, JAX has to draw them all.
    first = int(np.searchsorted(plane, neck[1] - 0.1)) if xp is np else 0
    lower, depth = painting.draw_trunk(
        p, m, backdrop[:, first:], plane[None], plane[first:, None], neck, side / n
    )
    picture = xp.concatenate([backdrop[:, :first], lower], 1).reshape(3, n * n)
    depth = xp.concatenate([np.full((first, n), -9, np.float32), depth]).reshape(-1)
    picture, depth = hold((picture, depth))
    picture = _draw_head(p, m, head, skin, paint, picture, depth, plane, camera, hold)
    picture = hold(_draw_glasses(p, hold(picture), plane, camera))
    rays = picture.reshape(3, size, supersample, size, supersample)
    linear = sum(rays[:, :, i, :, j] for i, j in np.ndindex(supersample, supersample))
    linear = xp.clip(linear / supersample**2, 0, None)
    # A soft shoulder for highlights, then about the display's square root.
    linear = linear * (1 + linear / 4) / (1 + linear)
    grey = 0.25 * linear[0] + 0.65 * linear[1] + 0.10 * linear[2]
    linear = xp.clip(grey + p["saturation"] * (linear - grey), 1e-6, None)
    shown = xp.exp(xp.log(1.25 * linear) * p["gamma"]) * 255 + 0.5
    shown = xp.clip(shown, 0, 255).astype(np.uint8)
    return shown.transpose(1, 2, 0), _project(points, *camera, size)


def _rays(rotation, place, wx, wy):
    """Origin [3] and directions [3, P] in the head frame, t = 1 on the ears' plane."""
    xp = namespace(wx)
    origin = rotation.T @ (np.float32([0, 0, CAMERA]) - place) + _PIVOT
    return origin, rotation.T @ xp.stack([wx, wy, 0 * wx - CAMERA])


def _draw_head(p, m, head, skin, paint, picture, depth, plane, camera, hold):
    """March, paint and shade the head over picture [3, n * n]."""
    rotation, place, side = camera
    xp, n = namespace(skin), plane.shape[0]
    outer = hold(skin + head["hair"])
    flat = outer.reshape(-1)

    # One ray in sixteen finds about where the head is …
    count = -(-n // _COARSE)
    at = (np.arange(count, dtype=np.float32) * _COARSE + _COARSE / 2) / n - 0.5
    wx, wy = xp.meshgrid(at * side, at * side)
    origin, ray = _rays(rotation, place, wx.reshape(-1), wy.reshape(-1))
    found, t = hold(grid.search(flat, origin, ray, _NEAR, _FAR, _STEPS, nearest=True))
    step = (_FAR - _NEAR) / _STEPS
    # … and brackets the finer ones around it.
    t_near = xp.where(found, t - 0.5 * step, 9).reshape(count, count)
    t_far = xp.where(found, t + 1.5 * step, -9).reshape(count, count)
    t_near = grid.spread(t_near, xp.minimum)
    t_far = grid.spread(t_far, xp.maximum)

    row, col = np.divmod(np.arange(n * n, dtype=np.int32), n)
    if xp is np:
        maybe = np.repeat(np.repeat(t_near < 9, _COARSE, 0), _COARSE, 1)[:n, :n]
        chosen = np.flatnonzero(maybe)
        if not chosen.size:
            return picture
        row, col = row[chosen], col[chosen]
    coarse = row // _COARSE * count + col // _COARSE
    t_near, t_far = hold((t_near, t_far))
    near = xp.minimum(grid.take(t_near.reshape(-1), coarse), _FAR)
    far = xp.maximum(grid.take(t_far.reshape(-1), coarse), near)
    origin, ray = _rays(rotation, place, grid.take(plane, col), grid.take(plane, row))
    found, t = hold(
        grid.search(flat, origin, ray, near, far, _FINE_STEPS, nearest=False)
    )
    step = (far - near) / _FINE_STEPS
    if xp is np:
        chosen, ray, t, step = chosen[found], ray[:, found], t[found], step[found]
        t = grid.meet(flat, origin, ray, t, step, hold)
        seen = CAMERA * (1 - t) > depth[chosen]  # the trunk hides some of it
        chosen, ray, t = chosen[seen], ray[:, seen], t[seen]
        if chosen.size:
            picture[:, chosen] = _shade_head(
                p, m, head, outer, paint, origin, ray, t, camera, n, hold
            )
        return picture
    t = xp.where(found, grid.meet(flat, origin, ray, t, step, hold), 1)
    hit, t = hold((found & (CAMERA * (1 - t) > depth), t))
    colour = _shade_head(p, m, head, outer, paint, origin, ray, t, camera, n, hold)
    return xp.where(hit, colour, picture)


def _shade_head(p, m, head, outer, paint, origin, ray, t, camera, n, hold):
    """Colour [3, P] of the head where rays meet it."""
    xp = namespace(t)
    rotation, _, side = camera
    light = rotation.T @ p["light"]
    slope_y, slope_theta = hold(grid.slopes(outer))
    shadow = hold(grid.shadows(outer, slope_y, slope_theta, light))
    strands, dark, red, beard = (paint[..., c] for c in (1, 2, 3, 4))
    cover = xp.clip((head["paint"][..., 0] - 0.01) / 0.08, 0, 1)
    table = xp.stack(
        [slope_y, slope_theta, shadow, cover, strands, xp.exp(-dark), red, beard], -1
    )
    x, y, z = origin[:, None] + t * ray
    row, column = grid.grid_position(x, y, z)
    table = hold(table.reshape(-1, table.shape[-1]).astype(np.float32))
    values = hold(grid.lookup(table, row, column).T)
    slope_y, slope_theta, shadow, cover, strands, clear, red, beard = values

    front = xp.clip((z - 0.15) / 0.15, 0, 1)
    face = (strands, red, beard)
    colour, gloss = hold(painting.paint_face(p, m, x, y, front, face, side / n))
    shine = xp.clip(0.85 + 0.28 * strands, 0.3, None)
    colour = painting.mix(colour, painting.column(p["hair_colour"]) * shine, cover)
    colour *= clear
    shine = 0.10 * p["hair_gloss"] * xp.clip(1 + strands, 0, 2)
    gloss = gloss + cover * (shine - gloss)
    shadow = shadow + 0.6 * cover * (1 - shadow)  # light gets through hair
    normal = grid.normals(x, z, slope_y, slope_theta)
    view = ray / xp.sqrt((ray * ray).sum(0))
    return painting.shade(p, colour, normal, view, light, gloss, shadow)


def _draw_glasses(p, picture, plane, camera):
    """Rims and bridge on a plane before the eyes, over picture [3, n * n]."""
    xp, n = namespace(plane), plane.shape[0]
    rotation, place, side = camera
    if xp is np and not p["glasses"]:
        return picture
    wx, wy = (v.reshape(-1) for v in xp.meshgrid(plane, plane))
    origin, ray = _rays(rotation, place, wx, wy)
    t = (_GLASSES_Z - origin[2]) / ray[2]
    x, y = origin[0] + t * ray[0], origin[1] + t * ray[1] - 0.03
    a, b = p["glasses_half"]
    corner = 0.10
    dx = xp.maximum(xp.abs(xp.abs(x) - p["eye_x"] - 0.02) - (a - corner), 0)
    dy = xp.maximum(xp.abs(y) - (b - corner), 0)
    distance = xp.abs(xp.sqrt(dx * dx + dy * dy) - corner)
    gap = xp.abs(y + 0.06) + 9 * xp.clip(xp.abs(x) - p["eye_x"] + a, 0, None)
    distance = xp.minimum(distance, gap)
    cover = 0.95 * p["glasses"] * painting.edge(p["glasses_rim"] - distance, side / n)
    return painting.mix(picture, painting.column(p["glasses_colour"]), cover)

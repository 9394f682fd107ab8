"""The surface of a synthetic head at rest, on the grid of `synthetic_grid`."""

import numpy as np

from data_pipeline.synthetic_grid import NS, NY, THETA, Y
from data_pipeline.synthetic_person import Params


def smoothstep(low, high, x):
    t = np.clip((x - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


def rounded_curve(x, points):
    """Piecewise linear function through (x, y) points, rounded at the knots."""
    xs, ys = np.array(points).T
    return np.mean([np.interp(x + d, xs, ys) for d in (-0.06, -0.03, 0, 0.03, 0.06)], 0)


def _noise(rng, rows, cols, *, smooth):
    """Smooth noise [NY, NS] of unit deviation, about `rows` by `cols` cells."""
    coarse = rng.standard_normal((rows + 3, cols + 3)).astype(np.float32)
    for axis, count in ((0, NY), (1, NS)):
        t = np.linspace(0, coarse.shape[axis] - 1.001, count)
        i, f = t.astype(int), (t % 1).astype(np.float32)
        f = f * f * (3 - 2 * f) if smooth else f
        shape = (-1, 1) if axis == 0 else (1, -1)
        f = f.reshape(shape)
        coarse = coarse.take(i, axis) * (1 - f) + coarse.take(i + 1, axis) * f
    return coarse / coarse.std()


def _widen(table):
    """The largest of each cell and its four neighbours."""
    out = table.copy()
    out[1:] = np.maximum(out[1:], table[:-1])
    out[:-1] = np.maximum(out[:-1], table[1:])
    out[:, 1:] = np.maximum(out[:, 1:], table[:, :-1])
    out[:, :-1] = np.maximum(out[:, :-1], table[:, 1:])
    return out


_Y, _TURN = Y[:, None], np.abs(THETA)[None]


def _section(width, front):
    """R2 of rounded cross-sections: half width and depth [NY, 1] to [NY, NS]."""
    back = 0.95 * rounded_curve(_Y, [(-0.2, 1), (0.2, 0.97), (0.5, 0.82), (0.9, 0.6)])
    sin, cos = np.sin(_TURN), np.cos(_TURN)
    depth = np.where(cos > 0, front, back)
    return ((sin / width) ** 2.25 + (np.abs(cos) / depth) ** 2.25) ** (-2 / 2.25)


def _blob(ax, cx, cy, sx, sy):
    """A Gaussian on each side of the face, around |x| = cx, y = cy."""
    return np.exp(-(((ax - cx) / sx) ** 2) - ((_Y - cy) / sy) ** 2)


def _bare_head(p: Params, rng):
    """R2 of the skin at rest; |x| there; depth below the jaw's edge; the ears."""
    y, turn = _Y, _TURN

    # Cross-sections: half width and depth at every height, then the cap.
    width = p["face_width"] * rounded_curve(
        y,
        [(-0.9, p["temple"] * 0.97), (-0.35, p["temple"]), (0.1, 1), (0.3, 0.995),
         (0.8, p["jaw"]), (1.2, p["jaw"] * 0.93)],
    )  # fmt: skip
    front = p["depth"] * rounded_curve(
        y,
        [(-0.8, 0.96), (-0.45, p["forehead"]), (-0.2, p["forehead"] + 0.015),
         (0.05, 0.95), (0.3, 0.97), (0.6, 1.0), (0.8, 1.01), (1.2, 0.97)],
    )  # fmt: skip
    cap = 1 - np.clip((-0.30 - y) / (-0.30 - p["crown_y"]), 0, 2) ** 2.5
    round_head = _section(width, front) * cap

    # The underside of the jaw, an edge that climbs from chin to ear.
    climb = np.clip(turn / 1.32, 0, 1) ** p["jaw_square"]
    edge = p["chin_y"] + (p["gonion_y"] - p["chin_y"]) * climb
    edge = edge + 0.28 * smoothstep(1.38, 2.0, turn)
    soft = 0.13 - 0.02 * climb
    under = np.clip((y - edge + soft) / soft, 0, None)
    jaw_cut = np.where(under < 1, 1 - 0.42 * under**3, 0.58 - 0.9 * (under - 1))
    # Just below nothing is enough: deep values would make walls of the hair.
    skin2 = np.maximum(round_head * np.minimum(jaw_cut, 1), -0.2)
    radius = np.sqrt(np.maximum(skin2, 1e-4))
    ax = radius * np.sin(turn)

    ny = p["nose_y"]
    ridge = rounded_curve(
        y,
        [(-0.22, 0), (-0.05, p["nose_bridge"] * 0.55), (0.12, p["nose_bridge"] + 0.03),
         (ny - 0.07, p["nose_out"] * 0.9), (ny + 0.01, p["nose_out"]),
         (ny + 0.07, p["nose_out"] * 0.62), (ny + 0.12, 0.03), (ny + 0.18, 0)],
    )  # fmt: skip
    nose_wide = p["nose_wide"] * rounded_curve(
        y, [(-0.1, 0.075), (0.2, 0.070), (ny, 0.095), (ny + 0.1, 0.10)]
    )
    bump = ridge * np.exp(-((ax / nose_wide) ** 2))
    bump = bump + p["nose_wing"] * _blob(
        ax, p["nose_half"] - 0.04, ny + 0.045, 0.05, 0.055
    )
    bump = bump - p["eye_depth"] * _blob(ax, p["eye_x"] - 0.03, -0.02, 0.19, 0.13)
    bump = bump - 0.5 * p["eye_depth"] * _blob(ax, 0.16, 0.0, 0.07, 0.10)
    bump = bump + 0.040 * _blob(ax, p["eye_x"], 0.01, 0.11, 0.09)
    bump = bump + p["brow_ridge"] * _blob(ax, 0.30, p["brow_y"] - 0.01, 0.22, 0.09)
    bump = bump + p["cheek"] * _blob(ax, 0.47, 0.27, 0.16, 0.16)
    bump = bump + p["fullness"] * _blob(ax, 0.42, 0.65, 0.20, 0.22)
    bump = bump - 0.025 * _blob(ax, 0.0, p["mouth_y"] + 0.19, 0.16, 0.045)
    bump = bump + p["chin_out"] * _blob(ax, 0.0, p["chin_y"] - 0.11, 0.16, 0.12)
    bump = bump - 0.012 * _blob(ax, 0.0, 0.62, 0.022, 0.06)
    bump = bump + 0.02 * _blob(ax, 0.0, p["mouth_y"], 0.24, 0.14)
    bump = bump + 0.035 * p["age"] * _blob(ax, 0.46, p["mouth_y"] + 0.12, 0.13, 0.16)
    bump = bump - 0.03 * p["age"] * _blob(ax, 0.50, p["mouth_y"] - 0.18, 0.12, 0.12)
    # What no name is given to: flesh and bone are uneven, the same on both sides.
    relief = _noise(rng, 10, 12, smooth=True)
    relief = (relief + relief[:, ::-1]) * smoothstep(1.5, 1.1, turn)
    bump = bump + 0.0085 * p["relief"] * relief
    ear_y = (y - 0.13) / 0.36
    ear = np.exp(-(((turn - 1.66 - 0.05 * ear_y) / 0.15) ** 4)) * np.clip(
        1 - ear_y**2, 0, 1
    )
    bump = bump + p["ear_out"] * ear**0.7 * (1.1 - 0.35 * ear_y)
    skin2 = skin2 + 2 * radius * bump + bump * bump
    return skin2, ax, under, ear


def _hair(p: Params, rng, skin2):
    """Cover in [0, 1], strand noise, and the R2 that the hair adds."""
    y, theta, turn = _Y, THETA[None], _TURN
    strands = 0.6 * _noise(rng, 3, 70, smooth=True) + 0.4 * _noise(
        rng, 6, 130, smooth=True
    )
    curls = _noise(rng, 40, 56, smooth=True)
    strands = strands + p["curl"] * (curls - strands)
    side = 0.02 + 0.12 * float(rng.uniform(-1, 1))
    swept = float(rng.uniform(0, 0.35)) * (p["fringe"] < 0.1)
    line = rounded_curve(
        turn,
        [(0, p["hairline"]), (0.5, p["hairline"] - (0.1 if p["style"] == "receding" else 0)),
         (0.95, -0.50), (1.15, -0.28), (1.28, side), (1.44, side - 0.02),
         (1.55, -0.24), (1.8, -0.20), (2.0, 0.6), (3.0, 0.85)],
    )  # fmt: skip
    if p["style"] == "afro":
        line = rounded_curve(
            turn, [(0, p["hairline"]), (0.9, -0.5), (1.2, 0.1), (3, 0.6)]
        )
    fringe = p["fringe"] * np.exp(-(((theta - p["parting"] * 1.2) / 0.45) ** 2))
    line = line + fringe + 0.014 * strands[100:101]
    if p["length"]:
        down = smoothstep(p["curtain"] - 0.12, p["curtain"] + 0.06, turn)
        line = line + (p["length"] + 0.05 * strands[101:102] - line) * down
    cover = smoothstep(-0.05, 0.07 + swept * smoothstep(1.2, 0.7, turn), line - y)
    cover = cover * (1.0 if p["style"] != "bald" else 0.0)
    hang = np.minimum(y, 0.25)
    top = smoothstep(0.1, -0.7, y)
    thick = (
        p["hair_side"] * (1 - top) * (1 if p["length"] else smoothstep(0.2, -0.4, y))
        + p["hair_top"] * top
    )
    thick = thick * (1 + 0.12 * strands * (0.3 + top)) + 0.08 * np.maximum(y - 0.3, 0)
    wide = p["face_width"] * rounded_curve(
        hang, [(-0.9, 0.96), (-0.35, 0.98), (0.1, 1.02)]
    )
    crown = p["crown_y"] - p["hair_top"]
    hair_cap = 1 - np.clip((-0.30 - y) / (-0.30 - crown), 0, 2) ** 2.5
    hair2 = _section(wide + thick, 0.93 * p["depth"] + 0.8 * thick) * hair_cap
    # Not inside the skin where there is any cover, nor thin at the temples.
    return cover, strands, cover * np.maximum(hair2 - skin2, 0.035)


def _paint(p: Params, rng, ax, under, ear, cover, strands):
    """What the skin's colour is made of, [NY, NS, 5]; see `build_head`."""
    y, turn, ny = _Y, _TURN, p["nose_y"]
    ear_y = (y - 0.13) / 0.36
    eye, mouth = p["eye_x"], p["mouth_y"]
    dark = 0.45 * _blob(ax, 0.165, 0.0, 0.06, 0.10) + 0.22 * _blob(
        ax, eye, -0.09, 0.19, 0.07
    )
    dark = dark + (0.08 + 0.2 * p["eye_bags"]) * _blob(ax, eye - 0.03, 0.13, 0.13, 0.05)
    dark = dark + 0.28 * _blob(ax, p["nose_half"] + 0.02, ny + 0.05, 0.03, 0.07)
    dark = dark + 0.25 * _blob(ax, 0, ny + 0.15, 0.10, 0.035)
    dark = dark + 0.20 * _blob(ax, 0, mouth + 0.17, 0.14, 0.04)
    dark = dark + 0.12 * _blob(ax, 0, ny + 0.23, 0.018, 0.05)
    dark = (
        dark
        + 0.65 * smoothstep(0.45, 1.6, under)
        + 0.10 * _blob(ax, 0.66, -0.3, 0.12, 0.2)
    )
    dark = dark + 0.45 * ear**2 * np.exp(-(((turn - 1.62) / 0.07) ** 2))
    dark = dark + 0.5 * np.exp(-(((turn - 1.49) / 0.05) ** 2)) * (np.abs(ear_y) < 0.9)
    # Folds from the wings of the nose to the corners of the mouth.
    t = np.clip((y - 0.45) / (mouth - 0.42), 0, 1)
    fold = np.exp(-(((ax - 0.19 - 0.17 * t) / 0.035) ** 2)) * (t * (1 - t) * 4)
    dark = dark + (0.06 + 0.10 * p["eye_bags"] + 0.25 * p["age"]) * fold
    # Lines of age: across the forehead, between the brows, beside the eyes.
    wave = 0.03 * np.cos(3 * ax)
    for height in (-0.36, -0.46, -0.56):
        line = np.exp(-(((y - height - wave) / 0.018) ** 2)) * (turn < 0.9)
        dark = dark + 0.13 * p["age"] ** 1.5 * line * smoothstep(0.45, 0.25, ax)
    dark = dark + 0.2 * p["age"] * _blob(ax, 0.055, p["brow_y"] + 0.02, 0.018, 0.06)
    feet = np.exp(-((((y - 0.02) * 3 - (ax - 0.5)) / 0.05) ** 2))
    feet = feet + np.exp(-((((y - 0.02) * 3 + (ax - 0.5)) / 0.05) ** 2))
    dark = dark + 0.15 * p["age"] * feet * smoothstep(0.08, 0.02, np.abs(ax - 0.56))
    shadow = _blob(ax, p["eye_x"] + 0.02, -0.085, 0.15, 0.045)
    dark = dark + p["eye_shadow"] * shadow
    # The colour reaches one cell further than the volume, its shadow two: skin
    # just below a wall of hair would catch light as a bright seam.
    seen = _widen(cover)
    hairs = np.clip(_widen(seen) * 1.5, 0, 1)
    dark = dark + 0.30 * hairs * (1 - hairs) * 4
    if p["length"]:  # hanging hair is dark where it turns in behind the jaw
        inner = smoothstep(p["curtain"] + 0.35, p["curtain"], turn)
        dark = dark + 0.7 * hairs * inner * smoothstep(0.4, 1.1, y)
    dark = dark + p["mottle"] * _noise(rng, 40, 50, smooth=True)
    dark = dark + 0.5 * p["mottle"] * _noise(rng, 8, 9, smooth=True)
    spots = np.clip(_noise(rng, 150, 150, smooth=False) - 1.0, 0, 1.2)
    dark = dark + p["freckles"] * spots * _blob(ax, 0.30, 0.32, 0.32, 0.26)
    for mole_turn, mole_y, mole_size in p["moles"]:
        if mole_size:
            away = (THETA[None] - mole_turn) ** 2 + (y - mole_y) ** 2
            dark = dark + 1.2 * np.exp(-away / mole_size**2)
    red = _blob(ax, 0.44, 0.33, 0.17, 0.17) + 0.9 * _blob(ax, 0, ny, 0.13, 0.09) + ear
    red = (
        red
        + 0.5 * _blob(ax, 0, p["chin_y"] - 0.1, 0.15, 0.1)
        - 0.4 * _blob(ax, 0, -0.5, 0.5, 0.2)
    )
    red = p["blush"] * red
    grain = 0.15 * _noise(rng, 110, 120, smooth=False)
    beard_line = (
        0.62
        + 0.30 * np.exp(-(((ax - 0.34) / 0.12) ** 2))
        - 0.55 * smoothstep(0.45, 0.75, ax)
    )
    beard = smoothstep(-0.03, 0.10, y - beard_line) * (turn < 1.45)
    beard = beard * smoothstep(0.14, 0.30, ax + 1.2 * np.maximum(y - mouth - 0.10, 0))
    lip_top = smoothstep(0.06, 0.02, np.abs(y - mouth + 0.135 - 0.3 * ax**2))
    moustache = lip_top * smoothstep(0.34, 0.24, ax)
    beard = (
        p["beard"] * np.clip(beard * (1 + grain), 0, 1) * smoothstep(2.2, 0.9, under)
    )
    beard = np.maximum(beard, p["moustache"] * moustache * np.clip(0.9 + grain, 0, 1))
    channels = np.broadcast_arrays(seen, strands, dark, red, beard)
    return np.stack(channels, axis=-1).astype(np.float32)


def build_head(p: Params) -> dict[str, np.ndarray]:
    """Everything about the surface that no motion changes, on the grid [NY, NS].

    Returns `skin` (R2 of the bare head at rest), `hair` (R2 the hair adds) and
    `paint` [NY, NS, 5] (hair cover, strand noise, darkening, redness, beard).
    """
    rng = np.random.default_rng(np.random.SeedSequence([p["noise_seed"], 6002]))
    skin2, ax, under, ear = _bare_head(p, rng)
    cover, strands, hair = _hair(p, rng, skin2)
    return {
        "skin": skin2.astype(np.float32),
        "hair": hair.astype(np.float32),
        "paint": _paint(p, rng, ax, under, ear, cover, strands),
    }

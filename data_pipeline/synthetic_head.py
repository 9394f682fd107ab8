"""The shape of a synthetic head: a random person, a 3-D surface, 68 points on it.

Head frame: origin on the vertical axis between the ears at eye level, x to the
right of the image, y down, z to the viewer, in decimetres. The surface is a
radius around that axis, rho^2 = R2(theta, y), tabled on a grid of NY rows by NS
columns; s = u / (1 + |u|) with u = tan(theta / 2) is the column's coordinate,
fine at the nose, coarse behind the ears, and free of trigonometry. R2 may be
negative: no surface there (above the crown).

Lips, lids and brows are curves y(x) of identity and motion. The same curves are
painted and carry the landmarks, which is why those are exact.
"""

import numpy as np

NS, NY = 192, 192
S_MAX, Y_MIN, Y_MAX = 0.78, -1.65, 2.35
S = np.linspace(-S_MAX, S_MAX, NS, dtype=np.float32)
Y = np.linspace(Y_MIN, Y_MAX, NY, dtype=np.float32)
THETA = (2 * np.arctan(S / (1 - np.abs(S)))).astype(np.float32)  # [NS] rad
_MOUTH_INNER = 0.86  # where the lips part, as a fraction of the mouth's half width

Params = dict[str, np.ndarray | float]


def _smoothstep(low, high, x):
    t = np.clip((x - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


def _curve(x, points):
    """Piecewise linear function through (x, y) points, rounded at the knots."""
    xs, ys = np.array(points).T
    return np.mean([np.interp(x + d, xs, ys) for d in (-0.06, -0.03, 0, 0.03, 0.06)], 0)


# ---------------------------------------------------------------- the person


def sample_identity(seed: int) -> Params:
    """A random person, with clothes, background and light; same seed, same person.

    Lengths in decimetres of the head frame, colours in linear light [3] in
    [0, 1] (display value = square root), directions unit vectors [3].
    """
    rng = np.random.default_rng(np.random.SeedSequence([int(seed), 6001]))
    u = rng.uniform

    def n(mean, deviation):
        return float(mean + deviation * np.clip(rng.standard_normal(), -2.2, 2.2))

    def srgb(*rgb):
        return (np.clip(np.array(rgb), 2, 255).astype(np.float32) / 255) ** 2

    male = rng.random() < 0.5
    p: Params = {
        "noise_seed": int(rng.integers(2**31)),
        "face_width": n(0.745, 0.035),
        "temple": n(0.95, 0.025),
        "jaw": n(0.83 if male else 0.785, 0.045),
        "jaw_square": n(2.3 if male else 2.0, 0.25),
        "gonion_y": n(0.62, 0.06),
        "chin_y": n(1.19 if male else 1.14, 0.045),
        "chin_out": n(0.04, 0.025),
        "crown_y": n(-1.17, 0.04),
        "depth": n(0.97, 0.03),
        "forehead": n(0.97, 0.02),
        "cheek": n(0.025, 0.02),
        "fullness": n(0.0, 0.02),
        "nose_y": n(0.43, 0.03),
        "nose_out": n(0.235 if male else 0.205, 0.03),
        "nose_bridge": n(0.075, 0.025),
        "nose_half": n(0.155, 0.018),
        "eye_x": n(0.318, 0.014),
        "eye_half": n(0.150, 0.010),
        "eye_open": n(0.064, 0.008),
        "eye_tilt": n(0.010, 0.015),
        "eye_depth": n(0.055, 0.018),
        "iris": n(0.062, 0.003),
        "brow_y": n(-0.235 if male else -0.255, 0.025),
        "brow_arch": n(0.035, 0.015),
        "brow_thick": n(0.036 if male else 0.026, 0.006),
        "brow_ridge": n(0.035 if male else 0.015, 0.01),
        "mouth_y": n(0.77, 0.022),
        "mouth_half": n(0.262, 0.020),
        "lip_upper": n(0.062, 0.016),
        "lip_lower": n(0.082, 0.018),
        "ear_out": n(0.10, 0.03),
        "asymmetry": n(0.0, 0.008),
        "neck": n(0.49 if male else 0.42, 0.03),
        "framing": n(1.0, 0.035),
        "frame_y": n(0.25, 0.04),
    }

    # Skin: a path through light, olive, brown, dark tones, with some scatter.
    tones = np.array(
        [[238, 203, 184], [226, 180, 152], [198, 146, 112], [146, 98, 70], [88, 58, 44]]
    )
    tone = u(0, 4)
    rgb = [np.interp(tone, np.arange(5), tones[:, c]) + u(-7, 7) for c in range(3)]
    p["skin"] = srgb(*rgb)
    p["lip"] = np.clip(
        p["skin"] * np.array([u(0.78, 1.0), u(0.34, 0.52), u(0.38, 0.55)]), 0.01, 1
    ).astype(np.float32)
    p["eye_bags"] = u(0, 1)
    p["gloss"] = u(0.3, 1.0)
    irises = [
        (86, 56, 34),
        (60, 38, 24),
        (92, 110, 74),
        (88, 118, 146),
        (110, 118, 118),
    ]
    p["iris_colour"] = srgb(*irises[int(rng.integers(5)) if tone < 2 else tone > 3])

    # Hair: colour, then where it grows. `hairline` is the forehead's, `sides`
    # the line over the ears, `length` the lower end behind them.
    hairs = [(26, 20, 18), (52, 36, 26), (92, 62, 38), (150, 108, 62), (206, 170, 112)]
    hairs += [(134, 62, 32), (150, 148, 146), (214, 212, 208)]
    weights = [5, 4, 3, 2, 1.5, 1, 1, 0.7] if tone < 2.2 else [8, 4, 1, 0, 0, 0, 1, 0.5]
    choice = rng.choice(8, p=np.array(weights) / sum(weights))
    p["hair_colour"] = srgb(*(np.array(hairs[choice]) * u(0.8, 1.2)))
    brow_base = p["hair_colour"] if choice < 6 else srgb(90, 80, 74)
    p["brow_colour"] = (0.75 * brow_base + 0.02 * p["skin"]).astype(np.float32)
    styles = ["bald", "receding", "short", "crop", "bob", "long", "up", "afro"]
    odds = (
        [1, 1.5, 4, 2, 0.6, 0.7, 0.3, 0.6] if male else [0, 0, 0.8, 1, 3, 4, 1.6, 0.5]
    )
    style = str(rng.choice(styles, p=np.array(odds) / sum(odds)))
    p["style"] = style
    p["hairline"] = n(-0.72, 0.04) - (0.22 if style == "receding" else 0.0)
    p["hair_top"] = {"bald": 0.0, "receding": 0.05, "crop": 0.06, "afro": 0.32}.get(
        style, u(0.09, 0.20)
    )
    p["hair_side"] = {"bald": 0.0, "receding": 0.03, "crop": 0.03, "afro": 0.30}.get(
        style, u(0.04, 0.09)
    )
    long = {"bob": u(0.85, 1.35), "long": u(1.7, 2.6)}
    if style in long:
        p["hair_side"] = u(0.08, 0.16)
    p["length"] = long.get(style, 0.0)
    p["curtain"] = u(1.05, 1.35)  # rad: where hanging hair begins
    p["parting"] = float(rng.choice([-1, 1])) * u(0.0, 0.5)
    p["fringe"] = u(0.05, 0.22) if style in ("short", "bob", "long") else 0.0
    p["hair_gloss"] = u(0.1, 0.6)
    p["beard"] = u(0.25, 1.0) if male and rng.random() < 0.4 else 0.0
    p["moustache"] = p["beard"] if rng.random() < 0.8 else 0.0
    p["glasses"] = float(rng.random() < 0.18)
    p["glasses_colour"] = srgb(*(np.array([1, 0.9, 0.8]) * u(15, 90)))
    p["glasses_half"] = np.array([u(0.21, 0.25), u(0.14, 0.20)], np.float32)

    # Clothes and background.
    p["cloth"] = srgb(*(u(15, 200) + u(-45, 45, 3) * u(0, 1)))
    p["cloth_inner"] = srgb(*(u(190, 250) + u(-20, 20, 3)))
    p["jacket"] = float(rng.random() < 0.4)
    p["collar_y"] = n(1.62, 0.05)
    p["neckline"] = np.array([u(0.35, 0.60), u(0.08, 0.55)], np.float32)
    p["shoulder"] = np.array([u(1.5, 1.9), u(0.18, 0.36)], np.float32)
    base = u(20, 200) + u(-30, 30, 3) * u(0, 1)
    p["backdrop"] = np.stack(
        [srgb(*base)] + [srgb(*(base + u(-70, 70) + u(-22, 22, 3))) for _ in range(9)]
    )
    p["blobs"] = u(0, 1, (8, 6)).astype(np.float32)

    # Light: a key from above, to one side, an ambient that is rarely neutral.
    side, up = u(-1.1, 1.1), u(0.15, 0.95)
    key = np.array([np.sin(side), -np.sin(up), np.cos(side) * np.cos(up) + 0.35])
    p["light"] = (key / np.linalg.norm(key)).astype(np.float32)
    warmth = n(0.0, 0.08)
    p["key"] = (u(0.75, 1.15) * np.array([1 + warmth, 1, 1 - warmth])).astype(
        np.float32
    )
    cool = n(0.0, 0.05)
    p["ambient"] = (u(0.22, 0.50) * np.array([1 - cool, 1, 1 + cool])).astype(
        np.float32
    )
    return p


# ------------------------------------------------------------ feature curves


def jaw_drop(m) -> np.ndarray:
    """How far the chin goes down, decimetres."""
    return 0.30 * m["mouth_open"]


def mouth_half(p: Params, m):
    return p["mouth_half"] * (1 + 0.16 * m["mouth_wide"] + 0.16 * m["smile"]) - (
        0.03 * m["mouth_open"]
    )


def mouth_lines(p: Params, m, x):
    """Heights y of outer upper, inner upper, inner lower, outer lower lip at x."""
    half = mouth_half(p, m)
    c = np.clip(np.abs(x) / half, 0, 1)
    round_ = 1 - c * c
    middle = p["mouth_y"] + 0.10 * jaw_drop(m) + p["asymmetry"] * x
    middle = middle + (-0.004 - 0.075 * m["smile"] + 0.06 * jaw_drop(m)) * c * c
    inner = np.clip(1 - (c / _MOUTH_INNER) ** 2, 0, 1) ** 0.8
    gap = 0.36 * m["mouth_open"] * inner
    pout = 1 - 0.12 * m["mouth_wide"] - 0.18 * m["smile"]
    bow = (
        1
        - 0.22 * np.exp(-((x / 0.035) ** 2))
        + 0.10 * np.exp(-(((c - 0.3) / 0.2) ** 2))
    )
    upper = middle - 0.12 * gap
    lower = middle + 0.88 * gap
    return (
        upper - p["lip_upper"] * pout * round_**0.85 * bow,
        upper,
        lower,
        lower + p["lip_lower"] * pout * round_**0.75,
    )


def lid_lines(p: Params, m, ex):
    """Heights y of the upper and lower lid at ex, outward from the eye's centre."""
    c = np.clip(ex / p["eye_half"], -1, 1)
    axis = 0.012 - p["eye_tilt"] * c
    narrow = 1 - 0.25 * np.maximum(m["smile"], 0) + 0.12 * m["brow"]
    lower = axis + 0.62 * p["eye_open"] * narrow * (1 - c * c)
    # The inner part of the upper lid is steeper than the outer.
    skew = c + 0.18 * (1 - c * c)
    upper = axis - 1.28 * p["eye_open"] * narrow * (1 - skew * skew)
    upper = np.minimum(upper + 0.3 * p["eye_open"] * np.maximum(m["gaze_y"], 0), lower)
    return upper + (lower - upper) * m["blink"], lower


def brow_line(p: Params, m, ax):
    """Centre height and half thickness of the brow at |x| = ax, and its two ends."""
    inner, outer = 0.125, p["eye_x"] + 0.275
    b = np.clip((ax - inner) / (outer - inner), 0, 1)
    frown = np.minimum(m["brow"], 0)
    y = p["brow_y"] - 0.085 * m["brow"] - 0.05 * frown * (b - 0.4)
    y = (
        y
        - p["brow_arch"] * (1 - ((b - 0.55) / 0.55) ** 2)
        + 0.07 * np.maximum(b - 0.6, 0)
    )
    return y, p["brow_thick"] * (1.05 - 0.75 * b * b), inner, outer


# ------------------------------------------------------------------ surface


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


def build_head(p: Params) -> dict[str, np.ndarray]:
    """Everything about the surface that no motion changes, on the grid [NY, NS].

    Returns `skin` (R2 of the bare head at rest), `hair` (R2 the hair adds),
    `paint` [NY * NS, 5] (hair cover, strand noise, darkening, redness, beard)
    and `follow` [NS] (how far a column goes with the jaw, in [0, 1]).
    """
    rng = np.random.default_rng(np.random.SeedSequence([p["noise_seed"], 6002]))
    y, theta, turn = Y[:, None], THETA[None], np.abs(THETA)[None]
    sin, cos = np.abs(np.sin(theta)), np.cos(theta)

    # Cross-sections: half width and depth at every height, then the cap.
    width = p["face_width"] * _curve(
        y,
        [(-0.9, p["temple"] * 0.97), (-0.35, p["temple"]), (0.1, 1), (0.3, 0.995),
         (0.8, p["jaw"]), (1.2, p["jaw"] * 0.93)],
    )  # fmt: skip
    front = p["depth"] * _curve(
        y,
        [(-0.8, 0.96), (-0.45, p["forehead"]), (-0.2, p["forehead"] + 0.015),
         (0.05, 0.95), (0.3, 0.97), (0.6, 1.0), (0.8, 1.01), (1.2, 0.97)],
    )  # fmt: skip
    back = 0.95 * _curve(y, [(-0.2, 1), (0.2, 0.97), (0.5, 0.82), (0.9, 0.6)])
    power = 2.25

    def section(width, front):
        depth = np.where(cos > 0, front, back)
        return ((sin / width) ** power + (np.abs(cos) / depth) ** power) ** (-2 / power)

    cap = 1 - np.clip((-0.30 - y) / (-0.30 - p["crown_y"]), 0, 2) ** 2.5
    round_head = section(width, front) * cap

    # The underside of the jaw, an edge that climbs from chin to ear.
    climb = np.clip(turn / 1.32, 0, 1) ** p["jaw_square"]
    edge = p["chin_y"] + (p["gonion_y"] - p["chin_y"]) * climb
    edge = edge + 0.30 * _smoothstep(1.75, 2.2, turn)
    soft = 0.13 - 0.02 * climb
    under = np.clip((y - edge + soft) / soft, 0, None)
    jaw_cut = np.where(under < 1, 1 - 0.42 * under**3, 0.58 - 0.9 * (under - 1))
    skin2 = round_head * np.minimum(jaw_cut, 1)
    radius = np.sqrt(np.maximum(skin2, 1e-4))
    x, ax = radius * np.sin(theta), radius * sin

    def blob(cx, cy, sx, sy):
        return np.exp(-(((ax - cx) / sx) ** 2) - ((y - cy) / sy) ** 2)

    ny = p["nose_y"]
    ridge = _curve(
        y,
        [(-0.22, 0), (-0.05, p["nose_bridge"] * 0.55), (0.12, p["nose_bridge"] + 0.03),
         (ny - 0.07, p["nose_out"] * 0.9), (ny + 0.01, p["nose_out"]),
         (ny + 0.07, p["nose_out"] * 0.62), (ny + 0.12, 0.03), (ny + 0.18, 0)],
    )  # fmt: skip
    nose_wide = _curve(y, [(-0.1, 0.075), (0.2, 0.070), (ny, 0.095), (ny + 0.1, 0.10)])
    bump = ridge * np.exp(-((ax / nose_wide) ** 2))
    bump = bump + 0.085 * blob(p["nose_half"] - 0.035, ny + 0.045, 0.05, 0.055)
    bump = bump - p["eye_depth"] * blob(p["eye_x"] - 0.03, -0.02, 0.19, 0.13)
    bump = bump - 0.5 * p["eye_depth"] * blob(0.16, 0.0, 0.07, 0.10)
    bump = bump + 0.040 * blob(p["eye_x"], 0.01, 0.11, 0.09)
    bump = bump + p["brow_ridge"] * blob(0.30, p["brow_y"] - 0.01, 0.22, 0.09)
    bump = bump + p["cheek"] * blob(0.47, 0.27, 0.16, 0.16)
    bump = bump + p["fullness"] * blob(0.42, 0.65, 0.20, 0.22)
    bump = bump - 0.025 * blob(0.0, p["mouth_y"] + 0.19, 0.16, 0.045)
    bump = bump + p["chin_out"] * blob(0.0, p["chin_y"] - 0.11, 0.16, 0.12)
    bump = bump - 0.012 * blob(0.0, 0.62, 0.022, 0.06)
    bump = bump + 0.02 * blob(0.0, p["mouth_y"], 0.24, 0.14)
    ear_y = (y - 0.13) / 0.36
    ear = np.exp(-(((turn - 1.66 - 0.05 * ear_y) / 0.15) ** 4)) * np.clip(
        1 - ear_y**2, 0, 1
    )
    bump = bump + p["ear_out"] * ear**0.7 * (1.1 - 0.35 * ear_y)
    skin2 = skin2 + 2 * radius * bump + bump * bump

    # Hair: a cover in [0, 1] and the radius of its outside.
    strands = 0.6 * _noise(rng, 6, 70, smooth=True) + 0.4 * _noise(
        rng, 14, 130, smooth=False
    )
    side = 0.12 + 0.05 * float(rng.standard_normal())
    line = _curve(
        turn,
        [(0, p["hairline"]), (0.5, p["hairline"] - (0.1 if p["style"] == "receding" else 0)),
         (0.95, -0.50), (1.15, -0.28), (1.28, side), (1.44, side - 0.02),
         (1.55, -0.24), (1.8, -0.20), (2.0, 0.6), (3.0, 0.85)],
    )  # fmt: skip
    if p["style"] == "afro":
        line = _curve(turn, [(0, p["hairline"]), (0.9, -0.5), (1.2, 0.1), (3, 0.6)])
    fringe = p["fringe"] * np.exp(-(((theta - p["parting"] * 1.2) / 0.45) ** 2))
    line = line + fringe + 0.025 * strands[100:101]
    if p["length"]:
        down = _smoothstep(p["curtain"] - 0.12, p["curtain"] + 0.06, turn)
        line = line + (p["length"] + 0.05 * strands[101:102] - line) * down
    cover = _smoothstep(-0.05, 0.07, line - y)
    cover = cover * (1.0 if p["style"] != "bald" else 0.0)
    hang = np.minimum(y, 0.25)
    top = _smoothstep(0.1, -0.7, y)
    thick = p["hair_side"] * (1 - top) + p["hair_top"] * top
    thick = thick * (1 + 0.12 * strands * (0.3 + top)) + 0.08 * np.maximum(y - 0.3, 0)
    wide = p["face_width"] * _curve(hang, [(-0.9, 0.96), (-0.35, 0.98), (0.1, 1.02)])
    crown = p["crown_y"] - p["hair_top"]
    hair_cap = 1 - np.clip((-0.30 - y) / (-0.30 - crown), 0, 2) ** 2.5
    hair2 = section(wide + thick, 0.93 * p["depth"] + 0.8 * thick) * hair_cap
    # Not inside the skin where there is any cover, nor thin at the temples.
    hair = cover * np.maximum(hair2 - skin2, 0.035)

    # Paint: darkening (log), redness, beard.
    eye, mouth = p["eye_x"], p["mouth_y"]
    dark = 0.45 * blob(0.165, 0.0, 0.06, 0.10) + 0.22 * blob(eye, -0.09, 0.19, 0.07)
    dark = dark + (0.08 + 0.2 * p["eye_bags"]) * blob(eye - 0.03, 0.13, 0.13, 0.05)
    dark = dark + 0.28 * blob(p["nose_half"] + 0.02, ny + 0.05, 0.03, 0.07)
    dark = dark + 0.25 * blob(0, ny + 0.15, 0.10, 0.035)
    dark = dark + 0.20 * blob(0, mouth + 0.17, 0.14, 0.04)
    dark = dark + 0.12 * blob(0, ny + 0.23, 0.018, 0.05)
    dark = (
        dark + 0.65 * _smoothstep(0.45, 1.6, under) + 0.10 * blob(0.66, -0.3, 0.12, 0.2)
    )
    dark = dark + 0.45 * ear**2 * np.exp(-(((turn - 1.62) / 0.07) ** 2))
    dark = dark + 0.5 * np.exp(-(((turn - 1.49) / 0.05) ** 2)) * (np.abs(ear_y) < 0.9)
    # Folds from the wings of the nose to the corners of the mouth.
    t = np.clip((y - 0.45) / (mouth - 0.42), 0, 1)
    fold = np.exp(-(((ax - 0.19 - 0.17 * t) / 0.035) ** 2)) * (t * (1 - t) * 4)
    dark = dark + (0.10 + 0.10 * p["eye_bags"]) * fold
    hairs = np.clip(cover * 1.5, 0, 1)
    dark = dark + 0.30 * hairs * (1 - hairs) * 4
    dark = dark + 0.03 * _noise(rng, 40, 50, smooth=True)
    red = blob(0.44, 0.33, 0.17, 0.17) + 0.9 * blob(0, ny, 0.13, 0.09) + ear
    red = (
        red
        + 0.5 * blob(0, p["chin_y"] - 0.1, 0.15, 0.1)
        - 0.4 * blob(0, -0.5, 0.5, 0.2)
    )
    grain = 0.15 * _noise(rng, 110, 120, smooth=False)
    beard_line = (
        0.62
        + 0.30 * np.exp(-(((ax - 0.34) / 0.12) ** 2))
        - 0.55 * _smoothstep(0.45, 0.75, ax)
    )
    beard = _smoothstep(-0.03, 0.10, y - beard_line) * (turn < 1.45)
    beard = beard * _smoothstep(0.14, 0.30, ax + 1.2 * np.maximum(y - mouth - 0.10, 0))
    lip_top = _smoothstep(0.06, 0.02, np.abs(y - mouth + 0.135 - 0.3 * ax**2))
    moustache = lip_top * _smoothstep(0.34, 0.24, ax)
    beard = (
        p["beard"] * np.clip(beard * (1 + grain), 0, 1) * _smoothstep(2.2, 0.9, under)
    )
    beard = np.maximum(beard, p["moustache"] * moustache * np.clip(0.9 + grain, 0, 1))
    paint = np.stack(
        np.broadcast_arrays(cover, strands, dark + 0 * x, red, beard), axis=-1
    )
    return {
        "skin": skin2.astype(np.float32),
        "hair": hair.astype(np.float32),
        "paint": paint.reshape(NY * NS, 5).astype(np.float32),
        "follow": _follow(THETA),
    }


def _follow(theta):
    """How far skin at this angle goes with the jaw: all in front, none at the ear."""
    return _smoothstep(1.65, 0.75, np.abs(theta)).astype(np.float32)


def _drop_rows(p: Params, drop: float) -> np.ndarray:
    """Rest height of the skin now at each row of the grid, [NY] decimetres."""
    lip = p["mouth_y"]
    rest = [
        -9,
        lip - 0.22,
        lip + 0.02,
        lip + 0.1,
        p["chin_y"] + 0.05,
        p["chin_y"] + 0.9,
    ]
    now = np.array([0, 0, 0.35, 0.97, 1, 1]) * drop + np.array(rest)
    return np.interp(Y, now, rest).astype(np.float32)


def pose_surface(p: Params, head: dict[str, np.ndarray], m) -> dict[str, np.ndarray]:
    """The surface under one frame's expression.

    Args:
      m: dict of floats, one frame of a motion.

    Returns:
      `skin` R2 without hair [NY, NS], `rest_row` the row at rest of each row's
      jaw-bound skin [NY]; pass both to `lift`.
    """
    rest_row = (_drop_rows(p, float(jaw_drop(m))) - Y_MIN) * (
        (NY - 1) / (Y_MAX - Y_MIN)
    )
    rest_row = np.clip(rest_row, 0, NY - 1.001).astype(np.float32)
    i = rest_row.astype(np.int32)
    f = (rest_row - i)[:, None]
    base = head["skin"]
    first = int((p["mouth_y"] - 0.25 - Y_MIN) * ((NY - 1) / (Y_MAX - Y_MIN)))
    warped = base[i[first:]] * (1 - f[first:]) + base[i[first:] + 1] * f[first:]
    skin = base.copy()
    skin[first:] += head["follow"] * (warped - base[first:])

    # Bumps that move: lips, the open mouth's hollow, cheeks of a smile. Each is
    # a row profile times a column profile, so all of them are one product.
    upper_out, upper, lower, lower_out = (float(v) for v in mouth_lines(p, m, 0.0))
    half = float(mouth_half(p, m))
    x = np.sin(THETA) * 0.93
    lips = np.clip(1 - (x / half) ** 2, 0, 1)
    cheeks = np.exp(-(((np.abs(x) - 0.42) / 0.15) ** 2))

    def row(cy, sigma):
        return np.exp(-(((Y - cy) / sigma) ** 2))

    rows = np.stack(
        [
            0.075 * row((upper_out + upper) / 2, 0.5 * (upper - upper_out) + 0.012),
            0.090 * row((lower + lower_out) / 2, 0.5 * (lower_out - lower) + 0.012),
            -0.30
            * m["mouth_open"]
            * row((upper + lower) / 2, 0.4 * (lower - upper) + 0.02),
            0.09 * max(m["smile"], -0.2) * row(0.42, 0.15),
        ]
    ).astype(np.float32)
    cols = np.stack([lips, lips, lips, cheeks]).astype(np.float32)
    skin += rows.T @ cols
    return {"skin": skin, "rest_row": rest_row}


def grid_position(x, y, z):
    """Fractional (row, column) of points on the grid, clipped inside it."""
    column = x / (np.sqrt(x * x + z * z) + z + np.abs(x) + 1e-6)
    column = (column + S_MAX) * ((NS - 1) / (2 * S_MAX))
    row = (y - Y_MIN) * ((NY - 1) / (Y_MAX - Y_MIN))
    return np.clip(row, 0, NY - 1.01), np.clip(column, 0, NS - 1.01)


def lookup(table, row, column):
    """Bilinear value of a flat table [NY * NS] or [NY * NS, C] at grid positions."""
    i, j = row.astype(np.int32), column.astype(np.int32)
    v, h = row - i, column - j
    if table.ndim == 2:
        v, h = v[:, None], h[:, None]
    at = i * NS + j
    a, b = table.take(at, 0), table.take(at + 1, 0)
    c, d = table.take(at + NS, 0), table.take(at + (NS + 1), 0)
    a += (b - a) * h
    c += (d - c) * h
    return a + (c - a) * v


# ---------------------------------------------------------------- landmarks


def _feature_points(p: Params, m) -> tuple[np.ndarray, np.ndarray]:
    """Points 17-67 as x, y [51] in the head frame, before the lift to the surface."""
    eye, half = p["eye_x"], p["eye_half"]
    # Brows, from the outer end of the one at the image's left to its inner end.
    _, _, inner, outer = brow_line(p, m, np.float32(0.3))
    brow_x = outer - np.linspace(0.03, 0.97, 5) * (outer - inner)
    brow_y, thick, _, _ = brow_line(p, m, brow_x)
    brow_y = brow_y - 0.5 * thick
    # Nose: four down the bridge, five under the tip.
    ny = p["nose_y"]
    nose_x = np.array([0, 0, 0, 0, -0.92, -0.48, 0, 0.48, 0.92]) * p["nose_half"]
    nose_y = np.array([0.02, 0.02 + (ny - 0.03) / 3, 0.02 + 2 * (ny - 0.03) / 3, ny - 0.01,
                       ny + 0.09, ny + 0.115, ny + 0.13, ny + 0.115, ny + 0.09])  # fmt: skip
    # Eyes: corner, two above, corner, two below; ex runs outwards.
    c = np.array([1, 0.36, -0.36, -1, -0.36, 0.36])
    upper, lower = lid_lines(p, m, c * half)
    eye_y = np.where(np.arange(6) < 4, upper, lower)
    eye_x = -(eye + c * half)
    right = [3, 2, 1, 0, 5, 4]
    # Mouth.
    k = np.array([-1, -0.62, -0.24, 0, 0.24, 0.62, 1, 0.64, 0.27, 0, -0.27, -0.64,
                  -0.88, -0.36, 0, 0.36, 0.88, 0.36, 0, -0.36])  # fmt: skip
    mouth_x = k * mouth_half(p, m)
    lines = mouth_lines(p, m, mouth_x)
    which = np.array([1] + [0] * 5 + [1] + [3] * 5 + [1] * 5 + [2] * 3)
    mouth_y = np.choose(which, lines)
    x = np.concatenate([-brow_x, brow_x[::-1], nose_x, eye_x, -eye_x[right], mouth_x])
    y = np.concatenate([brow_y, brow_y[::-1], nose_y, eye_y, eye_y[right], mouth_y])
    side = np.sign(x) * (np.arange(51) < 10)
    return x, y + p["asymmetry"] * side


# Jaw points 0-8: how far down the way from ear to chin, and the turn (rad).
_JAW_DOWN = np.array([0, 0.19, 0.38, 0.56, 0.73, 0.862, 0.95, 0.992, 1.0])
_JAW_TURN = np.array([1.44, 1.43, 1.41, 1.36, 1.18, 0.93, 0.62, 0.31, 0.0])


def head_landmarks(p: Params, surface: dict[str, np.ndarray], m) -> np.ndarray:
    """The 68 iBUG points on the surface, float32 [68, 3] in the head frame.

    Points 0-16 are fixed points of the jaw's edge, not of the outline that the
    camera sees; in a turned head the far ones are hidden.
    """
    skin = surface["skin"].reshape(-1)
    x, y = (v.astype(np.float32) for v in _feature_points(p, m))
    z = np.full(51, 0.9, np.float32)
    for _ in range(12):
        radius2 = lookup(skin, *grid_position(x, y, z))
        z = np.sqrt(np.maximum(radius2 - x * x, 1e-4))
    points = np.stack([x, y, z], -1)

    turn = np.concatenate([-_JAW_TURN, _JAW_TURN[-2::-1]]).astype(np.float32)
    climb = np.clip(np.abs(turn) / 1.32, 0, 1) ** p["jaw_square"]
    edge = p["chin_y"] + (p["gonion_y"] - p["chin_y"]) * climb - 0.02
    down = np.concatenate([_JAW_DOWN, _JAW_DOWN[-2::-1]])
    rest = np.minimum(0.02 + (p["chin_y"] - 0.04) * down, edge)
    follow = np.interp(turn, THETA, _follow(THETA))
    now = np.interp(rest, _drop_rows(p, float(jaw_drop(m))), Y)
    jaw_y = (rest + follow * (now - rest)).astype(np.float32)
    sin, cos = np.sin(turn), np.cos(turn)
    radius2 = lookup(skin, *grid_position(sin, jaw_y, cos))
    radius = np.sqrt(np.maximum(radius2, 1e-4))
    jaw = np.stack([radius * sin, jaw_y, radius * cos], -1)
    return np.concatenate([jaw, points]).astype(np.float32)

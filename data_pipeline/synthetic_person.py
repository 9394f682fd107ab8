"""A random person for the synthetic heads, and the lines of their features.

Lips, lids and brows are curves y(x) of identity and motion. The same curves are
painted and carry the landmarks, which is why the landmarks are exact.

Everywhere `p` is an identity and `m` one frame of a motion, a dict of floats;
lengths are decimetres of the head frame (see `synthetic_head`).
"""

import numpy as np

from data_pipeline.synthetic_grid import namespace

Params = dict[str, np.ndarray | float | str]

_MOUTH_INNER = 0.86  # where the lips part, as a fraction of the mouth's half width


def person_seed(seed: int, number: int) -> int:
    """Of `sample_identity` and the motions, for person `number` of the set `seed`."""
    return int(np.random.SeedSequence((seed, number)).generate_state(1)[0])


def person_name(seed: int, number: int) -> str:
    """What records and reports call person `number` of the set `seed`."""
    return f"synthetic{seed}_{number:05d}"


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
        "face_width": n(0.745, 0.052),
        "temple": n(0.95, 0.04),
        "jaw": n(0.84 if male else 0.79, 0.07),
        "jaw_square": n(2.3 if male else 2.0, 0.35),
        "gonion_y": n(0.62, 0.08),
        "chin_out": n(0.04, 0.035),
        "crown_y": n(-1.17, 0.05),
        "depth": n(0.97, 0.04),
        "forehead": n(0.97, 0.03),
        "cheek": n(0.03, 0.03),
        "fullness": n(0.01, 0.035),
        "nose_y": n(0.425, 0.038),
        "nose_out": n(0.23 if male else 0.205, 0.045),
        "nose_bridge": n(0.075, 0.04),
        "nose_wide": n(1.12, 0.17),
        "nose_wing": n(0.088, 0.02),
        "nose_half": n(0.162, 0.026),
        "eye_x": n(0.319, 0.020),
        "eye_half": n(0.149, 0.013),
        "eye_open": n(0.068, 0.014),
        "eye_tilt": n(0.010, 0.026),
        "eye_depth": n(0.055, 0.03),
        "iris": n(0.062, 0.004),
        "brow_y": n(-0.185 if male else -0.205, 0.027),
        "brow_arch": n(0.048, 0.024),
        "brow_thick": n(0.052 if male else 0.040, 0.013),
        "brow_ridge": n(0.035 if male else 0.015, 0.016),
        "mouth_half": n(0.272, 0.032),
        "lip_upper": n(0.070, 0.024),
        "lip_lower": n(0.092, 0.026),
        "ear_out": n(0.11, 0.045),
        "asymmetry": n(0.0, 0.011),
        "neck": n(0.49 if male else 0.42, 0.03),
        "framing": n(1.0, 0.035),
        "frame_y": n(0.27, 0.035),
    }

    # From the nose down everything follows what is above it, as in real faces.
    p["mouth_y"] = p["nose_y"] + 0.118 + n(0.207, 0.028)
    p["chin_y"] = p["mouth_y"] + n(0.445 if male else 0.41, 0.042)

    # Skin: a path through light, olive, brown, dark tones, with some scatter.
    tones = np.array(
        [[238, 203, 184], [226, 180, 152], [198, 146, 112], [146, 98, 70], [88, 58, 44]]
    )
    tone = u(0, 4)
    rgb = [np.interp(tone, np.arange(5), tones[:, c]) + u(-7, 7) for c in range(3)]
    p["skin"] = srgb(*rgb)
    p["lip"] = np.clip(
        p["skin"]
        * np.array([u(0.88, 1.0) - 0.07 * tone, u(0.32, 0.50), u(0.36, 0.53)]),
        0.01,
        1,
    ).astype(np.float32)
    # Few are old; lines and grey hair come with age.
    age = p["age"] = u(0, 1) ** 1.6
    p["eye_bags"] = float(np.clip(u(-0.1, 0.8) + 0.5 * age, 0, 1.2))
    p["mottle"] = u(0.008, 0.032) + 0.02 * age
    p["blush"] = u(0.2, 1.6)
    p["freckles"] = u(0.2, 0.6) if tone < 2 and rng.random() < 0.15 else 0.0
    p["moles"] = np.stack(  # turn, height, size (0: none)
        [u(-0.8, 0.8, 3), u(-0.6, 1.1, 3), u(0.016, 0.026, 3) * (u(0, 1, 3) < 0.25)], 1
    ).astype(np.float32)
    made_up = not male and rng.random() < 0.45
    p["lashes"] = u(0.85, 1.1) if made_up else u(0.45, 0.85)
    p["eye_shadow"] = u(0.1, 0.6) if made_up else 0.0
    p["crease"] = u(0.0, 0.45)
    p["relief"] = u(0.6, 1.6)
    if made_up:
        tint = np.array([u(0.85, 1.1), u(0.25, 0.75), u(0.4, 0.9)])
        p["lip"] = (p["lip"] * tint).astype(np.float32)
    p["gloss"] = u(0.2, 1.1)
    irises = [
        (86, 56, 34),
        (60, 38, 24),
        (92, 110, 74),
        (88, 118, 146),
        (110, 118, 118),
    ]
    p["iris_colour"] = srgb(*irises[int(rng.integers(5)) if tone < 2 else tone > 3])

    # Hair: colour, then where it grows. `hairline` is the forehead's, `length` the
    # lower end behind the ears.
    hairs = [(26, 20, 18), (52, 36, 26), (92, 62, 38), (150, 108, 62), (206, 170, 112)]
    hairs += [(134, 62, 32), (150, 148, 146), (214, 212, 208)]
    weights = [5, 4, 3, 2, 1.5, 1, 1, 0.7] if tone < 2.2 else [8, 4, 1, 0, 0, 0, 1, 0.5]
    weights[6] += 9 * age**3
    weights[7] += 9 * age**3
    choice = rng.choice(8, p=np.array(weights) / sum(weights))
    p["hair_colour"] = srgb(*(np.array(hairs[choice]) * u(0.8, 1.2)))
    if rng.random() < 0.03:  # dyed
        p["hair_colour"] = srgb(*u(20, 220, 3))
    brow_base = p["hair_colour"] if choice < 6 else srgb(90, 80, 74)
    p["brow_colour"] = (0.75 * brow_base + 0.02 * p["skin"]).astype(np.float32)
    styles = ["bald", "receding", "short", "crop", "bob", "long", "up", "afro"]
    odds = (
        [1, 1.5, 4, 2, 0.6, 0.7, 0.3, 0.6] if male else [0, 0, 0.8, 1, 3, 4, 1.6, 0.5]
    )
    style = str(rng.choice(styles, p=np.array(odds) / sum(odds)))
    p["style"] = style
    p["hairline"] = n(-0.78, 0.05) - (0.22 if style == "receding" else 0.0)
    p["hair_top"] = {"bald": 0.0, "receding": 0.05, "crop": 0.06, "afro": 0.32}.get(
        style, u(0.09, 0.20)
    )
    p["hair_side"] = {"bald": 0.0, "receding": 0.03, "crop": 0.03, "afro": 0.30}.get(
        style, u(0.04, 0.09)
    )
    long = {"bob": u(0.85, 1.35), "long": u(1.7, 2.6)}
    if style in long:
        p["hair_side"] = u(0.08, 0.16)
        p["ear_out"] = 0.3 * p["ear_out"]
    p["length"] = long.get(style, 0.0)
    p["curtain"] = u(1.05, 1.35)  # rad: where hanging hair begins
    p["parting"] = float(rng.choice([-1, 1])) * u(0.0, 0.5)
    p["fringe"] = (
        u(0.0, 0.30) * (rng.random() < 0.6)
        if style in ("short", "bob", "long")
        else 0.0
    )
    p["hair_gloss"] = u(0.1, 0.6)
    p["curl"] = 1.0 if style == "afro" else max(0.0, u(-0.8, 1.0))
    p["beard"] = u(0.25, 1.0) if male and rng.random() < 0.4 else 0.0
    p["moustache"] = p["beard"] if rng.random() < 0.8 else 0.0
    p["glasses"] = float(rng.random() < 0.18)
    p["glasses_colour"] = srgb(*(np.array([1, 0.9, 0.8]) * u(15, 90)))
    p["glasses_half"] = np.array([u(0.22, 0.28), u(0.15, 0.23)], np.float32)
    p["glasses_rim"] = u(0.006, 0.015)

    # Clothes and background.
    p["cloth"] = srgb(*(u(15, 200) + u(-45, 45, 3) * u(0, 1)))
    p["cloth_inner"] = srgb(*(u(190, 250) + u(-20, 20, 3)))
    p["jacket"] = float(rng.random() < 0.4)
    p["collar_y"] = n(1.52, 0.05)
    p["neckline"] = np.array([u(0.35, 0.60), u(0.08, 0.55)], np.float32)
    p["shoulder"] = np.array([u(1.5, 1.9), u(0.18, 0.36)], np.float32)
    base = u(20, 200) + u(-30, 30, 3) * u(0, 1)
    p["backdrop"] = np.stack(
        [srgb(*base)] + [srgb(*(base + u(-70, 70) + u(-22, 22, 3))) for _ in range(9)]
    )
    p["blobs"] = u(0, 1, (8, 6)).astype(np.float32)

    # Light: a key from above, to one side, an ambient that is rarely neutral.
    side, up = u(-1.25, 1.25), u(0.15, 0.95)
    key = np.array([np.sin(side), -np.sin(up), np.cos(side) * np.cos(up) + 0.35])
    p["light"] = (key / np.linalg.norm(key)).astype(np.float32)
    warmth = n(0.0, 0.09)
    # Cameras expose for the face: dark skin gets more light, if not all of it back.
    exposure = (0.40 / float(p["skin"].mean())) ** 0.6
    p["key"] = (
        exposure * u(0.75, 1.15) * np.array([1 + warmth, 1, 1 - warmth])
    ).astype(np.float32)
    cool = n(0.0, 0.09)
    p["ambient"] = (
        exposure * u(0.18, 0.46) * np.array([1 - cool, 1, 1 + cool])
    ).astype(np.float32)
    # The camera's colours; few pictures are grey.
    p["saturation"] = n(0.96, 0.13) * (rng.random() > 0.03)
    p["gamma"] = n(0.5, 0.035)
    return p


def jaw_drop(m):
    """How far the chin goes down, decimetres."""
    return 0.30 * m["mouth_open"]


def mouth_half(p: Params, m):
    return p["mouth_half"] * (1 + 0.16 * m["mouth_wide"] + 0.16 * m["smile"]) - (
        0.03 * m["mouth_open"]
    )


def mouth_lines(p: Params, m, x):
    """Heights y of outer upper, inner upper, inner lower, outer lower lip at x."""
    xp = namespace(m["mouth_open"])
    half = mouth_half(p, m)
    c = xp.clip(xp.abs(x) / half, 0, 1)
    round_ = 1 - c * c
    middle = p["mouth_y"] + 0.10 * jaw_drop(m) + p["asymmetry"] * x
    middle = middle + (-0.004 - 0.075 * m["smile"] + 0.06 * jaw_drop(m)) * c * c
    inner = xp.clip(1 - (c / _MOUTH_INNER) ** 2, 0, 1) ** 0.8
    gap = 0.36 * m["mouth_open"] * inner
    pout = 1 - 0.12 * m["mouth_wide"] - 0.18 * m["smile"]
    bow = (
        1
        - 0.22 * xp.exp(-((x / 0.035) ** 2))
        + 0.10 * xp.exp(-(((c - 0.3) / 0.2) ** 2))
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
    xp = namespace(m["blink"])
    c = xp.clip(ex / p["eye_half"], -1, 1)
    axis = 0.012 - p["eye_tilt"] * c
    narrow = 1 - 0.25 * xp.maximum(m["smile"], 0) + 0.12 * m["brow"]
    lower = axis + 0.60 * p["eye_open"] * narrow * (1 - xp.abs(c) ** 2.8)
    # The inner part of the upper lid is steeper than the outer.
    skew = c + 0.18 * (1 - c * c)
    upper = axis - 1.28 * p["eye_open"] * narrow * (1 - xp.abs(skew) ** 2.8)
    upper = xp.minimum(upper + 0.3 * p["eye_open"] * xp.maximum(m["gaze_y"], 0), lower)
    return upper + (lower - upper) * m["blink"], lower


def brow_line(p: Params, m, ax):
    """Centre height and half thickness of the brow at |x| = ax, and its two ends."""
    xp = namespace(m["brow"])
    inner, outer = 0.125, p["eye_x"] + 0.275
    b = xp.clip((ax - inner) / (outer - inner), 0, 1)
    y = p["brow_y"] - 0.085 * m["brow"]
    y = y - 0.05 * xp.minimum(m["brow"], 0) * (b - 0.4)
    arch = 1 - ((b - 0.55) / 0.55) ** 2
    y = y - p["brow_arch"] * arch + 0.07 * xp.maximum(b - 0.6, 0)
    return y, p["brow_thick"] * (1.05 - 0.75 * b * b), inner, outer

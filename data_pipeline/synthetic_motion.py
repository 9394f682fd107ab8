"""Poses and expressions for the synthetic heads, as plain arrays over time.

A motion is a dict of float32 arrays [F], one value per frame:

| key                 | unit, range   | meaning of a positive value              |
|---------------------|---------------|------------------------------------------|
| `yaw`               | rad           | the nose turns to the right of the image |
| `pitch`             | rad           | the nose goes down                       |
| `roll`              | rad           | clockwise in the image                   |
| `mouth_open`        | [0, 1]        | the jaw drops and the lips part          |
| `mouth_wide`        | [-1, 1]       | lips stretched; negative is a pucker     |
| `smile`             | [-0.4, 1]     | mouth corners up, cheeks raised          |
| `brow`              | [-1, 1]       | brows raised; negative is a frown        |
| `blink`             | [0, 1]        | 1 is closed                              |
| `gaze_x`, `gaze_y`  | [-1, 1]       | looking right, down in the image         |
| `shift_x`, `shift_y`| frame sides, before zoom and framing | the head moves right, down |
| `zoom`              | ratio         | the head is larger                       |
"""

import numpy as np

FRAMES_PER_SECOND = 25.0
MOTION_KEYS = (
    "yaw",
    "pitch",
    "roll",
    "mouth_open",
    "mouth_wide",
    "smile",
    "brow",
    "blink",
    "gaze_x",
    "gaze_y",
    "shift_x",
    "shift_y",
    "zoom",
)
MOTION_KINDS = ("talk", "look", "expressive")

_LIMITS = {
    "mouth_open": (0.0, 1.0),
    "mouth_wide": (-1.0, 1.0),
    "smile": (-0.4, 1.0),
    "brow": (-1.0, 1.0),
    "blink": (0.0, 1.0),
    "gaze_x": (-1.0, 1.0),
    "gaze_y": (-1.0, 1.0),
}
# Standard deviations of the smooth wander of each key, and its time scale in
# seconds. The kinds differ in these numbers and in the speech of the mouth.
_WANDER = {
    "talk": {
        "yaw": (0.11, 1.3),
        "pitch": (0.06, 1.0),
        "roll": (0.045, 1.4),
        "smile": (0.18, 1.6),
        "brow": (0.25, 0.9),
        "gaze_x": (0.20, 0.8),
        "gaze_y": (0.12, 0.8),
        "shift_x": (0.010, 1.6),
        "shift_y": (0.008, 1.4),
        "zoom": (0.012, 2.0),
    },
    "look": {
        "yaw": (0.35, 1.5),
        "pitch": (0.14, 1.1),
        "roll": (0.07, 1.6),
        "smile": (0.10, 2.0),
        "brow": (0.20, 1.2),
        "gaze_x": (0.25, 0.8),
        "gaze_y": (0.15, 0.8),
        "shift_x": (0.015, 1.6),
        "shift_y": (0.010, 1.4),
        "zoom": (0.015, 2.0),
    },
    "expressive": {
        "yaw": (0.16, 1.2),
        "pitch": (0.09, 0.9),
        "roll": (0.08, 1.2),
        "smile": (0.55, 0.9),
        "brow": (0.60, 0.7),
        "gaze_x": (0.30, 0.7),
        "gaze_y": (0.20, 0.7),
        "shift_x": (0.012, 1.4),
        "shift_y": (0.010, 1.2),
        "zoom": (0.020, 1.6),
    },
}


def _rng(seed: int, stream: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence([int(seed), 7001, stream]))


def _wander(rng: np.random.Generator, num_frames: int, seconds: float) -> np.ndarray:
    """Smooth noise of unit deviation: a cubic spline through random knots."""
    step = max(seconds * FRAMES_PER_SECOND, 1.0)
    t = np.arange(num_frames) / step
    knots = rng.standard_normal(int(t[-1]) + 4 if num_frames else 4)
    i = t.astype(int)
    f = t - i
    a, b, c, d = knots[i], knots[i + 1], knots[i + 2], knots[i + 3]
    # Uniform cubic B-spline; 1.5 gives back the deviation that smoothing takes.
    return (
        1.5
        * (
            a * (1 - f) ** 3
            + b * (3 * f**3 - 6 * f**2 + 4)
            + c * (-3 * f**3 + 3 * f**2 + 3 * f + 1)
            + d * f**3
        )
        / 6
    )


def _blinks(rng: np.random.Generator, num_frames: int) -> np.ndarray:
    """Lid closure [F]: fast down, slower up, every two to five seconds."""
    t = np.arange(num_frames) / FRAMES_PER_SECOND
    closure = np.zeros(num_frames)
    at = rng.uniform(0.3, 2.5)
    while num_frames and at < t[-1] + 0.2:
        closing = np.clip((t - at) / 0.10 + 1, 0, 1)
        opening = np.clip(1 - (t - at - 0.03) / 0.17, 0, 1)
        closure = np.maximum(closure, np.minimum(closing, opening))
        at += rng.uniform(1.8, 5.0)
    return closure * closure * (3 - 2 * closure)


def _finish(motion: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    clipped = {k: np.clip(motion[k], *_LIMITS.get(k, (-9.0, 9.0))) for k in MOTION_KEYS}
    return {k: v.astype(np.float32) for k, v in clipped.items()}


def neutral_motion(num_frames: int = 1) -> dict[str, np.ndarray]:
    """A still, frontal, closed-mouth face: the rest pose of every key, [F] each."""
    motion = {k: np.zeros(num_frames, np.float32) for k in MOTION_KEYS}
    motion["zoom"] += 1
    return motion


def sample_motion(
    seed: int, num_frames: int, kind: str = "talk"
) -> dict[str, np.ndarray]:
    """Smooth motion at 25 frames a second; same seed, same arrays.

    A longer motion begins with the shorter one of the same seed and kind.

    Args:
      seed: any non-negative integer.
      num_frames: F.
      kind: `talk` (speech, small sways, blinks), `look` (slow turns to about
        35 degrees, nods) or `expressive` (smiles, brows, wide open mouth).

    Returns:
      dict of float32 [F], keys and ranges in the module's table.
    """
    if kind not in MOTION_KINDS:
        raise ValueError(f"kind must be one of {MOTION_KINDS}, not {kind!r}")
    motion = {}
    for stream, key in enumerate(MOTION_KEYS):
        deviation, seconds = _WANDER[kind].get(key, (0.0, 1.0))
        motion[key] = deviation * _wander(_rng(seed, stream), num_frames, seconds)
    # Syllables ride on phrases: 4-5 a second while the phrase envelope is up.
    phrase = np.clip(0.75 + _wander(_rng(seed, 20), num_frames, 0.7), 0, 1)
    syllable = np.clip(0.45 + 0.6 * _wander(_rng(seed, 21), num_frames, 0.11), 0, 1.3)
    speech = phrase * syllable
    vowel = _wander(_rng(seed, 22), num_frames, 0.16)
    if kind == "talk":
        motion["mouth_open"] = 0.55 * speech
        motion["mouth_wide"] = 0.35 * phrase * vowel
        motion["smile"] = motion["smile"] + 0.15
    elif kind == "look":
        motion["yaw"] = 0.61 * np.tanh(motion["yaw"] / 0.45)
        motion["mouth_open"] = 0.12 * speech
        motion["mouth_wide"] = 0.10 * vowel
    else:
        yawn = np.clip(_wander(_rng(seed, 23), num_frames, 0.6), 0, 1.5)
        motion["mouth_open"] = 0.25 * speech + 0.6 * yawn
        motion["mouth_wide"] = 0.4 * vowel
        motion["smile"] = motion["smile"] + 0.3
    motion["blink"] = _blinks(_rng(seed, 24), num_frames)
    motion["zoom"] = 1 + motion["zoom"]
    return _finish(motion)


def sample_poses(seed: int, num_frames: int) -> dict[str, np.ndarray]:
    """Independent random poses and expressions, for training: [F] float32 each.

    Yaw reaches 45 degrees, most of it within 25; one frame in ten has closed
    or closing eyes, one in three a mouth at rest.
    """
    rng = _rng(seed, 50)
    n = num_frames

    def normal(deviation, limit):
        return np.clip(rng.normal(0, deviation, n), -limit, limit)

    motion = {
        "yaw": normal(0.33, 0.785),
        "pitch": normal(0.13, 0.38),
        "roll": normal(0.10, 0.35),
        "mouth_open": rng.beta(0.9, 2.0, n) * (rng.random(n) < 0.7),
        "mouth_wide": normal(0.40, 1.0),
        "smile": np.clip(rng.normal(0.15, 0.4, n), -0.4, 1),
        "brow": normal(0.45, 1.0),
        "blink": np.where(rng.random(n) < 0.1, rng.random(n) ** 0.5, 0.0),
        "gaze_x": normal(0.35, 1.0),
        "gaze_y": normal(0.25, 1.0),
        "shift_x": normal(0.02, 0.05),
        "shift_y": normal(0.015, 0.04),
        "zoom": np.exp(normal(0.04, 0.10)),
    }
    return _finish(motion)

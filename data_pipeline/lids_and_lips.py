"""Eyes and mouths of a photo, opened and shut line by line.

A smooth warp cannot shut an eye: its lids would have to meet. Here lids slide over the
eyeball, and lips part over what is behind them: a mouth that the photo shows open keeps
its inside, one that it shows shut is given one.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import scipy.interpolate

from data_pipeline import geometry


class _Feature(NamedTuple):
    """An eye or the mouth.

    Attributes:
      lines: landmarks from corner to corner, the uppermost line first.
      gap: index of the line above the opening.
      above, below: how far the skin gives, in widths of the feature.
    """

    lines: list[list[int]]
    gap: int
    above: float
    below: float


_EYES = [
    _Feature([[36, 37, 38, 39], [36, 41, 40, 39]], 0, 0.45, 0.4),
    _Feature([[42, 43, 44, 45], [42, 47, 46, 45]], 0, 0.45, 0.4),
]
_MOUTH = _Feature(
    [
        [48, 49, 50, 51, 52, 53, 54],
        [48, 60, 61, 62, 63, 64, 54],
        [48, 60, 67, 66, 65, 64, 54],
        [48, 59, 58, 57, 56, 55, 54],
    ],
    1,
    0.25,
    0.35,
)
# Lids and inner lips, which a smooth warp must leave to this module.
LANDMARKS = [37, 38, 40, 41, 43, 44, 46, 47, 61, 62, 63, 65, 66, 67]
_BESIDE = 0.3  # how far the skin gives beside the corners, in widths
_COLUMNS = np.linspace(0, 1, 65)
_LEAST = 1e-3  # widths between two lines
_APART = 0.02  # and, at least, between points of one
# Between the inner lips, in distances of the eyes: none and all of the inside is seen.
_SHUT, _OPEN = 0.02, 0.05
_ON_LIPS = ([50, 51, 52, 56, 57, 58], [61, 62, 63, 65, 66, 67])  # halfway between
_ON_SKIN = ([36, 45, 31, 35, 28, 29], [48, 54, 48, 54, 28, 29])
_TEETH, _TEETH_HALF = 0.12, 0.37  # length and half of the row, in widths of the mouth
_GAMMA = 2.2


class Mouth(NamedTuple):
    """What is painted between parted lips, linear light [3]; teeth where `shut` is 1."""

    teeth: np.ndarray
    hollow: np.ndarray
    tongue: np.ndarray
    shut: float


def inside_of(photo: np.ndarray, landmarks: np.ndarray) -> Mouth:
    """A mouth in the colours and the light of a photo, uint8 [S, S, 3]."""

    def colour(places):
        x, y = ((landmarks[places[0]] + landmarks[places[1]]) / 2).T
        samples = np.clip(geometry.sample(photo, x, y), 1, 255) / 255
        return np.median(samples, 1) ** _GAMMA

    lips, skin = colour(_ON_LIPS), colour(_ON_SKIN)
    light = skin.mean()
    gap = np.linalg.norm(landmarks[61:64] - landmarks[[67, 66, 65]], axis=-1).mean()
    eyes = max(float(geometry.inter_ocular(landmarks)), 1.0)
    seen = (gap / eyes - _SHUT) / (_OPEN - _SHUT)
    return Mouth(
        teeth=(0.05 + 0.6 * light) * (skin / light) ** 0.35,
        hollow=0.07 * lips,
        tongue=0.4 * lips,
        shut=float(1 - np.clip(seen, 0, 1)),
    )


def warp(
    photo: np.ndarray,
    landmarks: np.ndarray,
    places: np.ndarray,
    wanted: np.ndarray,
    smooth: np.ndarray,
    mouth: Mouth,
) -> np.ndarray:
    """The photo through a smooth warp, with lids and lips where they should be.

    Args:
      photo: uint8 [S, S, 3].
      landmarks: float [68, 2], pixels of the photo.
      places: float [2, S, S], (x, y) in the photo of every pixel of the result, by the
        smooth warp.
      wanted: float [68, 2], landmarks of the result, turned and shifted as the photo is.
      smooth: float [68, 2], their places in the photo, by the smooth warp.
      mouth: from `inside_of`.

    Returns:
      uint8 [S, S, 3].
    """
    size = len(photo)
    places = places.reshape(2, -1).copy()
    for feature in _EYES:
        near, u, v, _, down = _near(feature, places, landmarks)
        t, s = (_lines(feature, p, landmarks, u) for p in (smooth, landmarks))
        there, k = _stretch(feature, v, t, s), feature.gap
        # The eyeball stays where it is; a lid that opens it farther stretches it.
        hidden = (v > t[k]) & (v < t[k + 1]) & (t[k + 1] - t[k] < s[k + 1] - s[k])
        there = np.where(hidden, np.clip(v, s[k], s[k + 1]), there)
        _shift(places, near, u, there - v, down)

    near, u, v, width, down = _near(_MOUTH, places, landmarks)
    t, s = (_lines(_MOUTH, p, landmarks, u) for p in (smooth, landmarks))
    k = _MOUTH.gap
    upper, lower = _lines(_MOUTH, wanted, wanted, u)[k : k + 2]
    gap = (lower - upper) * _width(_MOUTH, wanted) / width
    depth = (v - t[k]) / (t[k + 1] - t[k])
    # What the photo shows of the inside hangs down from the upper lip.
    seen = np.maximum(s[k + 1] - s[k], 0)
    inside = s[k] + np.minimum(depth * gap, seen)
    there = np.where((depth > 0) & (depth < 1), inside, _stretch(_MOUTH, v, t, s))
    _shift(places, near, u, there - v, down)
    colours = geometry.sample(photo, *places)
    colours[:, near] = _paint(mouth, colours[:, near], u, depth, gap, seen, 1 / width)
    colours = colours.T.reshape(size, size, 3)
    return np.clip(colours + 0.5, 0, 255).astype(np.uint8)


def _axes(feature, landmarks):
    """Corner [2] and the axes [2, 2], along the feature and down, of a width each."""
    corner, end = landmarks[[feature.lines[0][0], feature.lines[0][-1]]].astype(float)
    x, y = end - corner
    if x * x + y * y < 1:
        x, y = 1.0, 0.0
    return corner, np.array([[x, y], [-y, x]])


def _width(feature, landmarks):
    return np.linalg.norm(_axes(feature, landmarks)[1][0])


def _coordinates(points, corner, axes):
    """Points [2, N] along the feature (0 and 1 are its corners) and down. [2, N]."""
    return axes @ (points - corner[:, None]) / (axes[0] @ axes[0])


def _near(feature, places, landmarks):
    """Which places [2, P] are near; their u and v [N]; the width; the way down [2]."""
    corner, axes = _axes(feature, landmarks)
    u, v = _coordinates(places, corner, axes)
    near = (np.abs(u - 0.5) < 0.5 + _BESIDE) & (np.abs(v) < 1.5)
    near = np.flatnonzero(near)
    return near, u[near], v[near], np.linalg.norm(axes[0]), axes[1]


def _lines(feature, points, landmarks, u):
    """Heights of the feature's lines through `points` [68, 2] at u [N]: [L, N], rising."""
    corner, axes = _axes(feature, landmarks)
    lines = []
    for line in feature.lines:
        at, height = _coordinates(points[line].T, corner, axes)
        apart = _APART * np.arange(len(at))
        at = np.maximum.accumulate(at - apart) + apart
        curve = scipy.interpolate.PchipInterpolator(at, height)
        table = curve(np.clip(_COLUMNS, at[0], at[-1]))
        lines.append(np.interp(u, _COLUMNS, table))
    least = _LEAST * np.arange(len(lines))[:, None]
    return np.maximum.accumulate(lines - least) + least


def _stretch(feature, v, t, s):
    """Where heights v [N] come from when lines t [L, N] lie on lines s, and skin gives."""
    top = np.minimum(t[0], s[0]) - feature.above
    bottom = np.maximum(t[-1], s[-1]) + feature.below
    t, s = (np.stack([top, *lines, bottom]) for lines in (t, s))
    parts = np.clip((v - t[:-1]) / np.diff(t, axis=0), 0, 1)
    there = top + (np.diff(s, axis=0) * parts).sum(0)
    return np.where((v > top) & (v < bottom), there, v)


def _shift(places, near, u, by, down):
    """Moves those near by heights [N]; less beside the corners."""
    beside = np.maximum(np.abs(u - 0.5) - 0.5, 0)
    places[:, near] += down[:, None] * (by * np.clip(1 - beside / _BESIDE, 0, 1))


def _paint(mouth, colours, u, depth, gap, seen, pixel):
    """What the photo does not show of the inside, over colours [3, N].

    Args:
      u: along the mouth.
      depth: 0 at the upper lip, 1 at the lower one.
      gap, seen: between the lips, here and in the photo; widths, as `pixel`.
    """

    def before(distance, soft=pixel):
        return np.clip(distance / soft + 0.5, 0, 1)

    v, side = depth * gap, np.abs(u - 0.5)
    cover = before(v) * before(gap - v) * np.clip(gap / (2 * pixel), 0, 1)
    cover *= before(v - seen)
    inside = mouth.hollow[:, None] + 0 * colours
    tongue = np.clip((depth - 0.5) / 0.4, 0, 1) * (1 - (2 * side) ** 2).clip(0)
    inside += tongue * (mouth.tongue - mouth.hollow)[:, None]
    teeth = mouth.shut * before(_TEETH - 0.3 * side**2 - v, pixel + 0.02)
    teeth *= before(_TEETH_HALF - side, 0.1)
    shade = np.clip(0.4 + v / 0.08, 0, 1) * (1 - 1.5 * side**2)
    inside += teeth * (mouth.teeth[:, None] * shade - inside)
    shown = 255 * inside.clip(0, 1) ** (1 / _GAMMA)
    return colours + cover * (shown - colours)

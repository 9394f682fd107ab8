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
      above, below: how far the skin gives, in widths of the feature; above an eye, at
        most halfway to its brow.
      brow: landmarks of the brow over an eye.
    """

    lines: list[list[int]]
    gap: int
    above: float
    below: float
    brow: tuple[int, ...] = ()


_EYES = [
    _Feature([[36, 37, 38, 39], [36, 41, 40, 39]], 0, 0.45, 0.4, (18, 19, 20)),
    _Feature([[42, 43, 44, 45], [42, 47, 46, 45]], 0, 0.45, 0.4, (23, 24, 25)),
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
_LEAST_ABOVE = 0.1  # and above an eye under a brow however low
_FARTHEST = 1.5  # from a feature, up and down: nothing farther moves
_COLUMNS = np.linspace(0, 1, 65)
_LEAST = 1e-3  # widths between two lines
_APART = 0.02  # and, at least, between points of one
# Between the inner lips, in distances of the eyes: none and all of the inside is seen.
_SHUT, _OPEN = 0.02, 0.05
_ON_LIPS = ([50, 51, 52, 56, 57, 58], [61, 62, 63, 65, 66, 67])  # halfway between
_ON_SKIN = ([36, 45, 31, 35, 28, 29], [48, 54, 48, 54, 28, 29])
_TEETH, _TEETH_HALF = 0.12, 0.37  # length and half of the row, in widths of the mouth
_TEETH_SIDE = 0.3  # shorter towards the corners
_TEETH_SOFT = (0.02, 0.1)  # edges: below, and beside
_LIPS_SHADE = (
    0.4,
    0.08,
)  # light on teeth at the upper lip, and how far down it is less
_TONGUE = (0.5, 0.9)  # depths where it begins and is seen in full
# In linear light: teeth beside the skin, and how much of its hue they have; the rest
# beside the lips.
_TEETH_LIGHT, _TEETH_LEAST, _TEETH_HUE = 0.6, 0.05, 0.35
_HOLLOW_LIGHT, _TONGUE_LIGHT = 0.07, 0.4
# Where an open mouth is looked into, along it and down; and how dark, beside its
# brightest, is the hollow behind teeth.
_ALONG, _DOWN = np.linspace(0.3, 0.7, 9), np.linspace(0.15, 0.85, 15)
_DARK = 0.7
_GAMMA = 2.2


class Mouth(NamedTuple):
    """What is between parted lips that a photo does not show, and how it shows the rest.

    Attributes:
      teeth, hollow, tongue: what is painted, linear light [3].
      shut: 1 where the photo shows the lips shut, 0 where open. Teeth and tongue are
        painted behind lips that it shows shut.
      split: how much of what it shows inside hangs from the upper lip; the rest stands on
        the lower one.
    """

    teeth: np.ndarray
    hollow: np.ndarray
    tongue: np.ndarray
    shut: float
    split: float


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
    shut, split, hollow = float(1 - np.clip(seen, 0, 1)), 1.0, _HOLLOW_LIGHT * lips
    rows = _look_inside(photo, landmarks)
    if shut < 1 and rows.min() < _DARK * rows.max():
        split = float(_DOWN[rows.argmin()])
        hollow = np.minimum(hollow, max(rows.min(), 1 / 255) ** _GAMMA)
    least = min(_TEETH_LEAST, light / 2)  # teeth do not glow in dark photos
    return Mouth(
        teeth=(least + _TEETH_LIGHT * light) * (skin / light) ** _TEETH_HUE,
        hollow=hollow,
        tongue=_TONGUE_LIGHT * lips,
        shut=shut,
        split=split,
    )


def _look_inside(photo, landmarks):
    """How bright the photo is between the inner lips, from the upper one to the lower."""
    at = np.linspace(0, 1, 5)
    upper, lower = (
        np.stack([np.interp(_ALONG, at, landmarks[line, axis]) for axis in (0, 1)])
        for line in (_MOUTH.lines[1][1:-1], _MOUTH.lines[2][1:-1])
    )
    x, y = upper[:, None] + (lower - upper)[:, None] * _DOWN[:, None]
    seen = geometry.sample(photo, x.ravel(), y.ravel())
    return seen.mean(0).reshape(x.shape).mean(1) / 255


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
        above, k = _above(feature, landmarks), feature.gap
        there = _stretch(feature, above, v, t, s)
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
    # Of what the photo shows inside, a part hangs from the upper lip and the rest stands
    # on the lower one; the hollow between them opens and shuts.
    seen, at = np.maximum(s[k + 1] - s[k], 0), depth * gap
    shown = np.minimum(seen, gap)
    above, below = mouth.split * shown, gap - (1 - mouth.split) * shown
    inside = s[k] + np.where(
        at < (above + below) / 2,
        np.minimum(at, mouth.split * seen),
        np.maximum(seen - (gap - at), mouth.split * seen),
    )
    there = np.where(
        (depth > 0) & (depth < 1), inside, _stretch(_MOUTH, _MOUTH.above, v, t, s)
    )
    _shift(places, near, u, there - v, down)
    colours = geometry.sample(photo, *places)
    colours[:, near] = _paint(
        mouth, colours[:, near], u, depth, gap, above, below, 1 / width
    )
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
    near = (np.abs(u - 0.5) < 0.5 + _BESIDE) & (np.abs(v) < _FARTHEST)
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


def _above(feature, landmarks):
    """How far the skin above gives: a brow does not come down with the lid."""
    if not feature.brow:
        return feature.above
    corner, axes = _axes(feature, landmarks)
    _, lid = _coordinates(landmarks[feature.lines[0][1:-1]].T, corner, axes)
    _, brow = _coordinates(landmarks[list(feature.brow)].T, corner, axes)
    room = (lid.mean() - np.median(brow)) / 2
    return np.clip(room, _LEAST_ABOVE, feature.above)


def _stretch(feature, above, v, t, s):
    """Where heights v [N] come from when lines t [L, N] lie on lines s, and skin gives."""
    top = np.minimum(t[0], s[0]) - above
    bottom = np.maximum(t[-1], s[-1]) + feature.below
    t, s = (np.stack([top, *lines, bottom]) for lines in (t, s))
    parts = np.clip((v - t[:-1]) / np.diff(t, axis=0), 0, 1)
    there = top + (np.diff(s, axis=0) * parts).sum(0)
    return np.where((v > top) & (v < bottom), there, v)


def _shift(places, near, u, by, down):
    """Moves those near by heights [N]; less beside the corners."""
    beside = np.maximum(np.abs(u - 0.5) - 0.5, 0)
    places[:, near] += down[:, None] * (by * np.clip(1 - beside / _BESIDE, 0, 1))


def _paint(mouth, colours, u, depth, gap, above, below, pixel):
    """What the photo does not show of the inside, over colours [3, N].

    Args:
      u: along the mouth.
      depth: 0 at the upper lip, 1 at the lower one.
      gap: between the lips; in widths, as the rest.
      above, below: down to where the photo's own inside hangs, and from where it stands.
      pixel: a pixel's width.
    """

    def before(distance, soft=pixel):
        return np.clip(distance / soft + 0.5, 0, 1)

    v, side = depth * gap, np.abs(u - 0.5)
    cover = before(v - above) * before(below - v) * np.clip(gap / (2 * pixel), 0, 1)
    inside = mouth.hollow[:, None] + 0 * colours
    tongue = np.interp(depth, _TONGUE, (0, 1)) * (1 - (2 * side) ** 2).clip(0)
    inside += mouth.shut * tongue * (mouth.tongue - mouth.hollow)[:, None]
    soft_below, soft_beside = _TEETH_SOFT
    teeth = before(_TEETH - _TEETH_SIDE * side**2 - v, pixel + soft_below)
    teeth *= mouth.shut * before(_TEETH_HALF - side, soft_beside)
    least, shaded = _LIPS_SHADE
    shade = np.clip(least + v / shaded, 0, 1) * (1 - 1.5 * side**2)
    inside += teeth * (mouth.teeth[:, None] * shade - inside)
    shown = 255 * inside.clip(0, 1) ** (1 / _GAMMA)
    return colours + cover * (shown - colours)

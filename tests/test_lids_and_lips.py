"""Photos with eyes and mouths opened and shut, beside what the renderer draws of it."""

import numpy as np
import pytest

from data_pipeline import geometry, synthetic
from data_pipeline.augment import _warp
from data_pipeline.lids_and_lips import inside_of
from flax_heads.baselines import piecewise_affine_warp

SIZE = 128
STILL = np.array([[1.0, 0, 0], [0, 1, 0]])
LIDS = [37, 38, 43, 44]


def _render(seed, **expression):
    motion = synthetic.neutral_motion()
    for name, value in expression.items():
        motion[name] = np.float32([value])
    (frame,), (points,) = synthetic.render(
        synthetic.sample_identity(seed), motion, SIZE
    )
    return frame, points


def _warped(source, target):
    """Photo and landmarks `source` with the landmarks of `target`."""
    photo, points = source
    picture, reached = _warp(photo, points, target[1], STILL, inside_of(*source))
    np.testing.assert_allclose(reached, target[1], atol=1e-3)  # it did not fold
    return picture


def _around(frame, points, margin):
    """What lies around some landmarks."""
    (left, top), (right, bottom) = points.min(0) - margin, points.max(0) + margin + 1
    return frame[int(top) : int(bottom), int(left) : int(right)].astype(float)


def _apart(a, b, points, margin=1):
    return np.abs(_around(a, points, margin) - _around(b, points, margin)).mean()


def _gain(source, target, where):
    """Our difference from the target there, in that of the photo or of its triangles."""
    photo, points = source
    (moved,) = piecewise_affine_warp(photo[None], points[None], target[1][None])
    ours = _apart(_warped(source, target), target[0], where)
    return ours / min(_apart(other, target[0], where) for other in (photo, moved))


@pytest.mark.parametrize("seed", range(6))
def test_shut_eyes_are_those_that_the_renderer_shuts(seed):
    source, shut = _render(seed), _render(seed, blink=1)
    eyes = [source[1][eye] for eye in (geometry.RIGHT_EYE, geometry.LEFT_EYE)]
    assert np.mean([_gain(source, shut, eye) for eye in eyes]) < 0.93


@pytest.mark.parametrize("seed", range(6))
def test_parted_lips_show_a_mouth_like_the_renderers(seed):
    source, parted = _render(seed), _render(seed, mouth_open=0.7)
    assert _gain(source, parted, parted[1][60:68]) < 0.95


@pytest.mark.parametrize("seed", range(6))
def test_an_open_mouth_shuts_as_the_renderers(seed):
    source, shut = _render(seed, mouth_open=0.5), _render(seed)
    assert _gain(source, shut, shut[1][geometry.MOUTH]) < 0.92


def test_an_eyeball_stays_as_it_is_behind_its_lid():
    """Half shut, what is still seen of the eye is not squashed."""
    source, half = _render(0), _render(0, blink=0.5)
    picture = _warped(source, half)
    eye = half[1][36:42]
    x, y = eye.mean(0).round().astype(int)
    column = slice(x - 2, x + 3)
    rows = slice(int(np.ceil(eye[[1, 2], 1].max())) + 1, int(eye[[4, 5], 1].min()))
    kept = np.abs(picture[rows, column].astype(float) - source[0][rows, column])
    assert rows.stop - rows.start >= 1
    assert kept.mean() < 12


def test_an_open_mouth_keeps_its_inside_and_teeth_get_no_longer():
    """Pixels just below the upper lip are the photo's; what opens below is dark."""
    source, wider = _render(2, mouth_open=0.35), _render(2, mouth_open=0.9)
    assert inside_of(*source).shut == 0
    picture = _warped(source, wider)
    for below in (1, 2):
        x, y = source[1][62] + [0, below]
        was = geometry.sample(source[0], np.array([x]), np.array([y]))
        x, y = wider[1][62] + [0, below]
        now = geometry.sample(picture, np.array([x]), np.array([y]))
        assert np.abs(was - now).max() < 30
    x, y = wider[1][66] - [0, 4]
    dark = geometry.sample(picture, np.array([x]), np.array([y]))
    assert dark.mean() < 0.5 * source[0][60:70, 60:68].mean()


def test_a_grey_photo_gets_a_grey_mouth():
    photo, points = _render(1)
    grey = np.repeat(photo.mean(-1, keepdims=True), 3, -1).astype(np.uint8)
    picture = _warped((grey, points), _render(1, mouth_open=0.8))
    spread = np.ptp(picture.astype(int), axis=-1)
    assert spread.max() <= 1


def test_teeth_do_not_glow_in_the_dark():
    photo, points = _render(1)
    for dimmed in (photo // 8, 0 * photo):
        mouth = inside_of(dimmed, points)
        x, y = points[[31, 35, 28, 29]].T
        skin = geometry.sample(dimmed, x, y).max() / 255
        assert (mouth.teeth <= max(skin, 1.5 / 255) ** 2.2).all()


def _coded():
    """The photo that says where each pixel came from: red is x, green y."""
    coded = np.zeros((SIZE, SIZE, 3), np.uint8)
    coded[..., 0], coded[..., 1] = np.meshgrid(np.arange(SIZE), np.arange(SIZE))
    return coded


def _mouths_middle(split):
    """Landmarks of an open mouth, and where the middle of one opened wider came from."""
    photo, points = _render(2, mouth_open=0.5)
    _, wider = _render(2, mouth_open=1)
    mouth = inside_of(photo, points)._replace(split=split, hollow=np.zeros(3))
    picture, _ = _warp(_coded(), points, wider, STILL, mouth)
    x, top = wider[62]
    rows = np.arange(np.ceil(top) + 1, np.floor(wider[66, 1]))
    return points, geometry.sample(picture, np.full(len(rows), x), rows)[1]


@pytest.mark.parametrize("split", [0.3, 0.7, 1.0])
def test_an_open_mouth_parts_at_its_hollow(split):
    """What hangs from the upper lip stays there, the rest stands on the lower one."""
    points, came_from = _mouths_middle(split)
    top, bottom = points[[62, 66], 1]
    hollow = np.flatnonzero(came_from < 5)
    assert len(hollow) >= 5
    (hangs, stands), parts_at = (
        (came_from[: hollow[0] - 1], came_from[hollow[-1] + 2 :]),
        top + split * (bottom - top),
    )
    assert ((hangs > top) & (hangs < parts_at + 1)).all()
    assert ((stands > parts_at - 1) & (stands < bottom + 1)).all()
    assert len(hangs) + len(stands) >= 3
    assert len(stands) == 0 if split == 1 else len(stands) > 0


def test_where_a_mouth_parts_is_seen_in_the_photo():
    """At its darkest; one full of teeth keeps them below the upper lip."""
    photo, points = _render(2, mouth_open=0.9)
    for dark in (0.3, 0.6):
        teeth = photo.copy()
        (_, top), (_, bottom) = points[[62, 66]]
        box = slice(int(points[60, 0]), int(points[64, 0]))
        teeth[int(top) : int(bottom) + 1, box] = 220
        assert inside_of(teeth, points).split == 1
        row = round(top + dark * (bottom - top))
        teeth[row - 1 : row + 2, box] = 10
        mouth = inside_of(teeth, points)
        assert abs(mouth.split - dark) < 0.1
        assert mouth.hollow.max() < 0.05


def test_an_eye_that_opens_wider_is_stretched():
    (_, half), (_, wide) = _render(0, blink=0.6), _render(0)
    picture, _ = _warp(_coded(), half, wide, STILL, inside_of(_coded(), half))
    for part in (0.3, 0.5, 0.7):
        (x, y), (_, y_there) = (
            (1 - part) * p[[37, 38]].mean(0) + part * p[[41, 40]].mean(0)
            for p in (wide, half)
        )
        came_from = geometry.sample(picture, np.array([x]), np.array([y]))[1, 0]
        assert abs(came_from - y_there) < 0.75


def test_a_low_brow_stays_where_it_is_when_the_eye_shuts():
    (photo, points), (_, shut) = _render(0), _render(0, blink=1)
    points[17:27, 1] += 4
    shut[17:27] = points[17:27]
    picture, _ = _warp(_coded(), points, shut, STILL, inside_of(photo, points))
    for i in (19, 24):
        x, y = points[i]
        rows = y + np.arange(3)
        came_from = geometry.sample(picture, np.full(3, x), rows)[1]
        assert np.abs(came_from - rows).max() < 0.5


@pytest.mark.parametrize("yaw", [-0.5, 0.5])
def test_lids_lie_on_their_landmarks_in_turned_heads(yaw):
    """The photo says where each pixel came from: red is x, green y."""
    _, points = _render(4, yaw=yaw)
    _, target = _render(4, yaw=yaw, blink=0.6, mouth_open=0.4, smile=0.5)
    coded = np.zeros((SIZE, SIZE, 3), np.uint8)
    coded[..., 0], coded[..., 1] = np.meshgrid(np.arange(SIZE), np.arange(SIZE))
    picture = _warped((coded, points), (coded, target))
    for i in LIDS:
        x, y = target[i] - [0, 0.8]  # on the lid's edge
        came_from = geometry.sample(picture, np.array([x]), np.array([y]))[:2, 0]
        assert np.abs(came_from - points[i] + [0, 0.8]).max() < 2

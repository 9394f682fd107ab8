"""Rasters: palette, geometry, scale, and what is refused."""

import dataclasses

import numpy as np
import pytest

from data_pipeline import geometry, synthetic
from data_pipeline.raster import RasterStyle, draw_raster, draw_rasters

FACE = synthetic.landmarks_of(
    synthetic.sample_identity(3), synthetic.neutral_motion(), 256
)[0]

PALETTE = {
    8: (255, 255, 255),  # chin, on the jaw
    19: (255, 0, 0),  # right brow
    24: (0, 255, 0),  # left brow
    28: (0, 0, 255),  # nose bridge
    33: (0, 0, 255),  # nostrils
    37: (255, 0, 255),  # right eye
    43: (0, 255, 255),  # left eye
    57: (255, 255, 0),  # outer lips
    66: (255, 255, 0),  # inner lips
}


@pytest.mark.parametrize("index", PALETTE)
def test_palette(index):
    x, y = np.round(FACE[index]).astype(int)
    raster = draw_raster(np.round(FACE), 256)
    np.testing.assert_array_equal(raster[y, x], PALETTE[index])


def test_black_ground_and_uint8():
    raster = draw_raster(FACE, 256)
    assert raster.dtype == np.uint8 and raster.shape == (256, 256, 3)
    assert (raster.max(-1) == 0).mean() > 0.9


def test_lines_are_two_pixels_wide_at_256_and_one_at_least():
    line = np.full((68, 2), 1000.0)  # everything else far outside
    line[27:31] = np.stack([np.full(4, 100.0), np.linspace(50, 150, 4)], 1)
    row = draw_raster(line, 256)[100, :, 2] / 255
    assert row.sum() == pytest.approx(2.0, abs=0.02)
    small = geometry.resize_points(line, 256, 32)
    row = draw_raster(small, 32)[12, :, 2] / 255
    assert row.sum() == pytest.approx(1.0, abs=0.05)


def test_eyes_and_lips_are_closed_curves_and_the_jaw_is_open():
    raster = draw_raster(FACE, 256)

    def drawn_between(a, b, part=0.5):
        x, y = np.round(FACE[a] + part * (FACE[b] - FACE[a])).astype(int)
        return raster[y, x].max() > 60

    assert drawn_between(41, 36) and drawn_between(47, 42) and drawn_between(59, 48)
    assert not drawn_between(0, 16, 0.1)  # halfway there may be the nose


def test_inner_lips_carry_the_opening():
    motion = synthetic.neutral_motion() | {"mouth_open": np.float32([1.0])}
    open_mouth = synthetic.landmarks_of(synthetic.sample_identity(3), motion, 256)[0]
    with_lips = draw_raster(open_mouth, 256)
    without = draw_raster(open_mouth, 256, RasterStyle(inner_lips=False))
    changed = np.argwhere((with_lips != without).any(-1))
    inner = open_mouth[60:68][:, ::-1]
    assert len(changed) > 20
    assert (changed > inner.min(0) - 3).all() and (changed < inner.max(0) + 3).all()


def test_landmarks_may_leave_the_frame():
    raster = draw_raster(FACE + 150, 256)
    assert raster.any()
    assert not draw_raster(FACE + 5000, 256).any()


def test_drawing_is_independent_of_neighbours_and_batching():
    many = np.stack([FACE, FACE + 3.3])
    np.testing.assert_array_equal(draw_rasters(many, 64)[1], draw_raster(many[1], 64))
    assert draw_rasters(many[:0], 64).shape == (0, 64, 64, 3)


def test_mirrored_landmarks_give_the_mirrored_drawing():
    """Shapes mirror; the sides keep their own colours, so compare the jaw and mouth."""
    face = np.round(FACE * 64) / 64  # so that 255 - x is exact
    mirrored = face.copy()
    mirrored[:, 0] = 255 - face[:, 0]
    a, b = draw_raster(face, 256), draw_raster(mirrored, 256)
    np.testing.assert_array_equal(a[:, ::-1], b)


@pytest.mark.parametrize("bad", [np.zeros((5, 2)), np.full((68, 2), np.nan)])
def test_bad_landmarks_are_refused(bad):
    with pytest.raises(ValueError, match="landmarks must be"):
        draw_raster(bad, 64)


def test_another_version_is_refused_not_converted():
    style = dataclasses.replace(RasterStyle(), version=99)
    with pytest.raises(ValueError, match="version"):
        draw_raster(FACE, 64, style)


def test_raster_at_half_size_matches_the_halved_landmarks():
    """The small raster shows the same face: centres of mass agree."""
    large = draw_raster(FACE, 256).astype(float).sum(-1)
    small = (
        draw_raster(geometry.resize_points(FACE, 256, 128), 128).astype(float).sum(-1)
    )

    def centre(image):
        ys, xs = np.mgrid[: len(image), : len(image)]
        mass = image.sum()
        return np.array([(image * xs).sum(), (image * ys).sum()]) / mass / len(image)

    np.testing.assert_allclose(centre(large), centre(small), atol=0.01)


def test_many_frames_at_once_are_drawn_like_one_by_one():
    rng = np.random.default_rng(0)
    near = FACE / 4 + rng.uniform(-9, 9, (40, 1, 2))
    wild = rng.uniform(-40, 100, (3, 68, 2))
    for landmarks in (near, wild):
        together = draw_rasters(landmarks, 64)
        alone = [draw_raster(points, 64) for points in landmarks]
        np.testing.assert_array_equal(together, alone)

"""Properties that hold for any face, box and picture, found by trying many."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs import voxceleb2
from data_pipeline import geometry
from data_pipeline.raster import RasterStyle, draw_raster
from data_pipeline.synthetic import landmarks_of, neutral_motion, sample_identity
from flax_heads import recipe

FACE = landmarks_of(sample_identity(3), neutral_motion(), 256)[0]

quick = settings(max_examples=25, derandomize=True, deadline=None, database=None)
sides = st.integers(16, 200)
coordinates = st.floats(-300, 300)
boxes = st.builds(geometry.Box, coordinates, coordinates, st.floats(4, 400))
faces = st.builds(
    lambda seed, scale, x, y: (
        (FACE - 128) * scale
        + np.random.default_rng(seed).normal(0, 2, (68, 2))
        + np.array([x, y])
    ).astype(np.float32),
    st.integers(0, 999),
    st.floats(0.1, 2),
    coordinates,
    coordinates,
)


# --- Geometry


@quick
@given(faces, boxes, sides)
def test_a_points_place_in_a_crop_leads_back(points, box, size):
    inside = geometry.to_crop(points, box, size)
    back = (inside + 0.5) * (box.side / size) + [box.left, box.top] - 0.5
    np.testing.assert_allclose(back, points, atol=1e-3 * max(1, box.side / size))


@quick
@given(faces, sides, sides)
def test_resizing_points_there_and_back_changes_nothing(points, size, other):
    there = geometry.resize_points(points, size, other)
    np.testing.assert_allclose(
        geometry.resize_points(there, other, size),
        points,
        atol=1e-3 * max(1, size / other),
    )


@quick
@given(faces, st.floats(0.3, 3), coordinates, coordinates)
def test_the_crop_of_a_face_moves_and_grows_with_it(points, scale, x, y):
    size = 128
    before = geometry.to_crop(points, geometry.head_box(points), size)
    moved = points * scale + np.float32([x, y])
    after = geometry.to_crop(moved, geometry.head_box(moved), size)
    # Pixel centres lie half a pixel off the edges that scale, hence not exactly.
    box = geometry.head_box(moved)
    allowed = 0.5 * abs(scale - 1) * size / box.side + 0.01
    np.testing.assert_allclose(after, before, atol=allowed)


@quick
@given(st.floats(-3, 3), st.floats(0.2, 5), coordinates, coordinates)
def test_a_similarity_and_its_fitted_inverse_cancel(angle, scale, x, y):
    cos, sin = scale * np.cos(angle), scale * np.sin(angle)
    matrix = np.array([[cos, -sin, x], [sin, cos, y]])
    moved = geometry.transform(FACE, matrix)
    inverse = geometry.fit_similarity(moved.astype(float), FACE.astype(float))
    np.testing.assert_allclose(geometry.transform(moved, inverse), FACE, atol=0.02)


# --- Crops


def _disc(height: int, width: int, x: float, y: float, radius: float) -> np.ndarray:
    rows, columns = np.mgrid[:height, :width]
    inside = np.hypot(columns - x, rows - y) < radius
    return np.repeat(np.where(inside, 255, 0).astype(np.uint8)[..., None], 3, -1)


@quick
@given(st.floats(40, 110), st.floats(40, 80), st.floats(70, 160), st.integers(40, 120))
def test_a_disc_stays_round_and_lies_where_its_landmark_does(x, y, side, size):
    image = _disc(120, 150, x, y, 15)
    box = geometry.Box(x - side / 2 + 3, y - side / 2 - 4, side)
    crop = geometry.crop(image, box, size)
    assert crop.shape == (size, size, 3) and crop.dtype == np.uint8
    weights = crop[..., 0] / 255.0
    rows, columns = np.mgrid[:size, :size]
    total = weights.sum()
    centre = np.array([(weights * columns).sum(), (weights * rows).sum()]) / total
    expected = geometry.to_crop(np.array([x, y]), box, size)
    np.testing.assert_allclose(centre, expected, atol=0.6)
    spread_x = np.sqrt((weights * (columns - centre[0]) ** 2).sum() / total)
    spread_y = np.sqrt((weights * (rows - centre[1]) ** 2).sum() / total)
    assert spread_x / spread_y == pytest.approx(1, abs=0.06)
    assert total == pytest.approx(np.pi * (15 * size / side) ** 2, rel=0.15)


@quick
@given(boxes, st.integers(8, 64), st.integers(0, 255))
def test_a_crop_invents_no_colour_wherever_the_box_is(box, size, grey):
    image = np.full((40, 60, 3), grey, np.uint8)
    assert (geometry.crop(image, box, size) == grey).all()


# --- Rasters


@quick
@given(faces, st.integers(16, 96), st.floats(0.5, 6), st.booleans())
def test_a_raster_is_black_beyond_the_lines(points, size, width, lips):
    style = RasterStyle(line_width=width, inner_lips=lips)
    raster = draw_raster(points, size, style)
    assert raster.shape == (size, size, 3) and raster.dtype == np.uint8
    drawn = np.argwhere(raster.any(-1))[:, ::-1]  # (x, y)
    reach = max(width * size / 256, 1) / 2 + 1
    if len(drawn):
        assert (drawn >= points.min(0) - reach).all()
        assert (drawn <= points.max(0) + reach).all()


@quick
@given(st.integers(-20, 20), st.integers(-20, 20), st.floats(0.5, 4))
def test_a_raster_moves_with_whole_pixels(dx, dy, width):
    style = RasterStyle(line_width=width)
    points = ((FACE - 128) * 0.3 + 64).astype(np.float32)  # 20 pixels off the border
    moved = draw_raster(points + np.float32([dx, dy]), 128, style)
    expected = np.roll(draw_raster(points, 128, style), (dy, dx), (0, 1))
    difference = np.abs(moved.astype(int) - expected)
    assert difference.max() <= 1  # float32 places are not quite the same


@quick
@given(st.sampled_from([(1, 0), (-1, 0), (0, 1), (0, -1), (1, 1)]), st.floats(1e3, 1e6))
def test_a_face_far_outside_draws_nothing(direction, distance):
    points = FACE + np.float32(direction) * np.float32(distance)
    assert not draw_raster(points, 64).any()


# --- Configs


@quick
@given(st.data())
def test_changed_fields_survive_json(data):
    values = recipe.as_json(voxceleb2.get_config())
    numbers = list(_numbers(values))
    for holder, key in data.draw(st.lists(st.sampled_from(numbers), max_size=5)):
        kind = st.floats(-1e6, 1e6) if isinstance(holder[key], float) else st.integers()
        holder[key] = data.draw(kind)
    assert recipe.as_json(recipe.from_json(values)) == values


def _numbers(values: dict):
    """(container, key) of every number in a tree of dicts."""
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _numbers(value)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield values, key

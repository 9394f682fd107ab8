"""Convolutions against XLA's own: values and both gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from flax_heads import convolutions, plain_convolution
from flax_heads.convolutions import downsample, upsample


def _plain(x, kernel):
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


_PLAIN = {
    "conv": _plain,
    "conv_downsample": lambda x, kernel: downsample(_plain(x, kernel)),
    "upsample_conv": lambda x, kernel: _plain(upsample(x), kernel),
}


# Sides that differ and odd widths; few pixels and many; many outputs; many images, and
# some left over; fewer pixels than taps.
@pytest.mark.parametrize(
    "shape",
    [(2, 6, 10, 5, 7), (3, 18, 16, 5, 7), (2, 16, 18, 5, 256), (19, 4, 4, 3, 6),
     (5, 2, 2, 6, 4)],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("name", _PLAIN)
def test_values_and_gradients(name, shape, monkeypatch):
    # Parts, as of many large images.
    monkeypatch.setattr(plain_convolution, "_LARGE", 256)
    arrays = _arrays(shape, jnp.float32)
    expected = _probed(_PLAIN[name], *arrays)
    actual = _probed(getattr(convolutions, name), *arrays)
    for a, b in zip(expected, actual, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-4)


# All images in one product; one image in each; two in each, and of three one is left.
@pytest.mark.parametrize("shape", [(3, 16, 18, 40, 32), (4, 16, 18, 32, 40)], ids=str)
@pytest.mark.parametrize("pixels", [4096, 64, 600])
@pytest.mark.parametrize("name", _PLAIN)
def test_bfloat16_is_float32_but_for_its_rounding(name, shape, pixels, monkeypatch):
    monkeypatch.setattr(plain_convolution, "_PIXELS", pixels)
    half = _arrays(shape, jnp.bfloat16)
    expected = _probed(_PLAIN[name], *(array.astype(jnp.float32) for array in half))
    actual = _probed(getattr(convolutions, name), *half)
    for a, b in zip(expected, actual, strict=True):
        assert b.dtype == jnp.bfloat16
        error = jnp.linalg.norm(a - b.astype(jnp.float32)) / jnp.linalg.norm(a)
        assert error < 0.01


def _arrays(shape, dtype):
    *image, outputs = shape
    x = jax.random.normal(jax.random.key(0), image)
    kernel = jax.random.normal(jax.random.key(1), (3, 3, image[-1], outputs))
    return x.astype(dtype), kernel.astype(dtype)


def _probed(function, x, kernel):
    """Value and both gradients."""

    def probe(x, kernel):
        y = function(x, kernel)
        weights = jax.random.normal(jax.random.key(2), y.shape)
        return (y.astype(jnp.float32) * weights).sum(), y

    gradients, y = jax.jit(jax.grad(probe, argnums=(0, 1), has_aux=True))(x, kernel)
    return y, *gradients


@pytest.mark.parametrize("side", [4, 8, 16])
@pytest.mark.parametrize("name", _PLAIN)
def test_images_are_computed_alike_alone_and_among_others(name, side):
    """Else a frame's bfloat16 rounding would depend on the others drawn with it."""

    def operations(batch):
        arrays = jnp.zeros((batch, side, side, 4)), jnp.zeros((3, 3, 4, 4))
        jaxpr = jax.make_jaxpr(getattr(convolutions, name))(*arrays)
        return [equation.primitive.name for equation in jaxpr.eqns]

    assert operations(1) == operations(16) == operations(1000)


@pytest.mark.parametrize("name", _PLAIN)
def test_a_bfloat16_image_is_the_same_alone_and_among_others(name):
    x, kernel = _arrays((5, 16, 16, 64, 64), jnp.bfloat16)
    function = jax.jit(getattr(convolutions, name))
    alone = [function(x[i : i + 1], kernel) for i in range(len(x))]
    assert jnp.array_equal(function(x, kernel), jnp.concatenate(alone))


@pytest.mark.parametrize("name", _PLAIN)
def test_exported_for_any_batch_it_is_a_convolution_on_every_platform(name):
    """Though it is traced on a CPU, which would have products in bfloat16."""
    x, kernel = _arrays((3, 16, 16, 64, 64), jnp.bfloat16)
    function = jax.jit(getattr(convolutions, name))
    shape = (*export.symbolic_shape("b"), *x.shape[1:])
    program = export.export(function, platforms=("cpu", "cuda"))(
        jax.ShapeDtypeStruct(shape, x.dtype), kernel
    )
    assert "stablehlo.convolution" in program.mlir_module()
    expected, actual = (
        f(x, kernel).astype(jnp.float32) for f in (function, program.call)
    )
    np.testing.assert_allclose(expected, actual, rtol=0.02, atol=0.2)


def test_computing_type_is_kept():
    x = jnp.ones((2, 8, 8, 3), jnp.bfloat16)
    kernel = jnp.ones((3, 3, 3, 256), jnp.bfloat16)
    y, pull_back = jax.vjp(convolutions.conv, x, kernel)
    assert {str(v.dtype) for v in (y, *pull_back(y))} == {"bfloat16"}

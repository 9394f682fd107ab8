"""Convolutions against XLA's own: values and both gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flax_heads import convolutions
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
    monkeypatch.setattr(convolutions, "_LARGE", 256)  # parts, as of many large images
    *image, outputs = shape
    x = jax.random.normal(jax.random.key(0), image)
    kernel = jax.random.normal(jax.random.key(1), (3, 3, image[-1], outputs))

    def probed(function):
        def probe(x, kernel):
            y = function(x, kernel)
            return (y * jax.random.normal(jax.random.key(2), y.shape)).sum(), y

        return jax.jit(jax.grad(probe, argnums=(0, 1), has_aux=True))(x, kernel)

    expected, actual = probed(_PLAIN[name]), probed(getattr(convolutions, name))
    for a, b in zip(jax.tree.leaves(expected), jax.tree.leaves(actual)):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-4)


@pytest.mark.parametrize("side", [4, 8, 16])
@pytest.mark.parametrize("name", _PLAIN)
def test_images_are_computed_alike_alone_and_among_others(name, side):
    """Else a frame's bfloat16 rounding would depend on the others drawn with it."""

    def operations(batch):
        arrays = jnp.zeros((batch, side, side, 4)), jnp.zeros((3, 3, 4, 4))
        jaxpr = jax.make_jaxpr(getattr(convolutions, name))(*arrays)
        return [equation.primitive.name for equation in jaxpr.eqns]

    assert operations(1) == operations(16) == operations(1000)


def test_computing_type_is_kept():
    x = jnp.ones((2, 8, 8, 3), jnp.bfloat16)
    kernel = jnp.ones((3, 3, 3, 256), jnp.bfloat16)
    y, pull_back = jax.vjp(convolutions.conv, x, kernel)
    assert {str(v.dtype) for v in (y, *pull_back(y))} == {"bfloat16"}

"""Sizes, shapes and invariances of the embedder, the generator and the discriminator."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flax_heads import layers
from flax_heads.discriminator import Discriminator
from flax_heads.embedder import Embedder
from flax_heads.generator import Generator, Projection, split_psi
from flax_heads.info import count_parameters
from tests import tiny

IMAGE = jax.ShapeDtypeStruct((1, 256, 256, 3), jnp.float32)
VECTOR = jax.ShapeDtypeStruct((1, 512), jnp.float32)
KEY = jax.random.key(0)


def test_parameter_counts_of_the_paper():
    """15 M, 38 M and 20 M, to the last one (attention apart, as they were counted)."""
    embedder = Embedder(attention_after=None)
    assert (
        count_parameters(jax.eval_shape(embedder.init, KEY, IMAGE, IMAGE)) == 14_825_024
    )

    generator = Generator(attention_after=None, up_attention_after=None)
    assert generator.psi_size == 13_056
    psi = jax.ShapeDtypeStruct((1, generator.psi_size), jnp.float32)
    projection = Projection(generator.style_channels)
    count = count_parameters(jax.eval_shape(generator.init, KEY, IMAGE, psi))
    count += count_parameters(jax.eval_shape(projection.init, KEY, VECTOR))
    assert count == 37_909_443

    discriminator = Discriminator(attention_after=None)
    count = count_parameters(
        jax.eval_shape(discriminator.init, KEY, IMAGE, IMAGE, VECTOR)
    )
    assert count == 19_544_640 + 512 + 1  # V, w0 and b


def test_discriminator_returns_seven_maps_and_unbounded_scores():
    shapes = jax.eval_shape(
        lambda: Discriminator().init_with_output(
            KEY,
            jnp.zeros((2, 256, 256, 3)),
            jnp.zeros((2, 256, 256, 3)),
            jnp.ones((2, 512)),
        )[0]
    )
    scores, features = shapes
    assert scores.shape == (2,)
    assert [f.shape[1] for f in features] == [128, 64, 32, 16, 8, 4, 4]


def test_attention_of_the_paper_sits_at_32_and_64_pixels():
    generator = Generator()
    _, shapes = jax.eval_shape(
        lambda: generator.apply(
            generator.init(KEY, jnp.zeros((1, 256, 256, 3)), jnp.zeros((1, 13_056))),
            jnp.zeros((1, 256, 256, 3)),
            jnp.zeros((1, 13_056)),
            capture_intermediates=lambda m, _: isinstance(m, layers.SelfAttention),
        )
    )
    sides = {
        name: value["__call__"][0].shape[1]
        for name, value in shapes["intermediates"].items()
    }
    assert sides == {"attention": 32, "up_attention": 64}


def test_instance_norm_statistics():
    x = jax.random.normal(KEY, (2, 8, 8, 5)) * 3 + 7
    y = np.asarray(layers.instance_norm(x))
    np.testing.assert_allclose(y.mean((1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(y.var((1, 2)), 1, rtol=1e-3)
    # A constant channel stays finite and zero: eps stands inside the root.
    assert np.abs(layers.instance_norm(jnp.full((1, 4, 4, 1), 5.0))).max() == 0


def test_adain_uses_gamma_and_beta_as_they_come():
    x = jax.random.normal(KEY, (2, 8, 8, 3))
    gamma = jnp.array([[2.0, 0.0, -1.0], [1.0, 1.0, 1.0]])
    beta = jnp.array([[0.0, 5.0, 0.0], [0.0, 0.0, 3.0]])
    y = np.asarray(layers.adaptive_instance_norm(x, (gamma, beta)))
    expected = np.asarray(layers.instance_norm(x))
    expected = expected * gamma[:, None, None] + beta[:, None, None]
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-6)


def test_small_changes_of_gamma_count_in_bfloat16():
    """Fine-tuning moves it by less than bfloat16's distance between numbers near 1."""
    x = jax.random.normal(KEY, (1, 8, 8, 3), jnp.bfloat16)
    styles = [(jnp.full((1, 3), gamma), jnp.zeros((1, 3))) for gamma in (1.0, 1.0035)]
    a, b = (layers.adaptive_instance_norm(x, style) for style in styles)
    assert a.dtype == jnp.bfloat16 and (a != b).any()


def test_every_adain_layer_reads_its_own_part_of_psi():
    generator = tiny.NETWORKS.generator
    size = generator.psi_size
    styles = split_psi(jnp.arange(size)[None], generator.style_channels)
    seen = np.concatenate([np.ravel(part) for style in styles for part in style])
    np.testing.assert_array_equal(seen, np.arange(size))


def test_every_adain_layer_shapes_the_picture():
    """Catches a second AdaIN that reuses the first one's parameters."""
    generator = tiny.NETWORKS.generator
    raster = jax.random.normal(KEY, (1, tiny.SIZE, tiny.SIZE, 3))
    psi = jax.random.normal(jax.random.key(1), (1, generator.psi_size))
    variables = jax.jit(generator.init)(KEY, raster, psi)

    @jax.jit
    @jax.grad
    def gradient(psi):
        noise = jax.random.normal(jax.random.key(2), raster.shape)
        return (generator.apply(variables, raster, psi) * noise).sum()

    for gamma, beta in split_psi(gradient(psi), generator.style_channels):
        # Some channels die in a ReLU; a layer that is left out has no gradient at all.
        assert (np.abs(gamma) > 0).mean() > 0.5
        assert (np.abs(beta) > 0).mean() > 0.5


def test_projection_starts_as_the_identity_style():
    channels = tiny.NETWORKS.generator.style_channels
    projection = Projection(channels)
    zero = jnp.zeros((1, 16))
    psi = projection.apply(projection.init(KEY, zero), zero)
    for gamma, beta in split_psi(psi, channels):
        np.testing.assert_array_equal(gamma, 1)
        np.testing.assert_array_equal(beta, 0)


@pytest.mark.parametrize("relu_first", [False, True])
def test_sum_pool_orders_differ_as_stated(relu_first):
    x = jnp.array([3.0, -5.0, 1.0, -1.0]).reshape(1, 2, 2, 1)
    assert layers.sum_pool(x, relu_first) == (4.0 if relu_first else 0.0)


@pytest.mark.parametrize("resample", ["down", "up"])
def test_skip_is_the_specified_one(resample):
    """Running the 1x1 skip on the smaller side changes no number."""
    block = layers.ResidualBlock(6, resample)
    x = jax.random.normal(KEY, (2, 8, 8, 4))
    variables = block.init(KEY, x)
    main_off = jax.tree.map(jnp.zeros_like, variables)
    main_off["params"]["skip"] = variables["params"]["skip"]
    skip = variables["params"]["skip"]

    def conv1x1(x):
        return jnp.einsum("bhwi,io->bhwo", x, skip["kernel"][0, 0]) + skip["bias"]

    if resample == "down":
        expected = layers.downsample(conv1x1(x))
    else:
        expected = conv1x1(layers.upsample(x))
    actual = block.apply(main_off, x)
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)


def test_rectified_skip_reads_the_rectified_input():
    x = -jnp.ones((1, 4, 4, 3))
    for rectified in (False, True):
        block = layers.ResidualBlock(3, rectified_skip=rectified)
        variables = jax.tree.map(jnp.zeros_like, block.init(KEY, x))
        expected = 0 if rectified else -1
        np.testing.assert_array_equal(block.apply(variables, x), expected)


def test_attention_starts_as_the_identity_and_learns():
    attention = layers.SelfAttention()
    x = jax.random.normal(KEY, (1, 4, 4, 16))
    variables = attention.init(KEY, x)
    np.testing.assert_array_equal(attention.apply(variables, x), x)

    def loss(variables):
        return (attention.apply(variables, x) ** 3).sum()

    assert abs(jax.grad(loss)(variables)["params"]["gamma"]) > 0


def test_embedding_ignores_the_order_of_the_supports():
    from flax_heads.meta_learning import embed

    state = tiny.new_state()
    batch = tiny.make_batch(num_support=4)
    frames, rasters = (
        jnp.asarray(batch[k] / 127.5 - 1) for k in ("support_frames", "support_rasters")
    )
    params = state.generator.normalized()
    a = embed(tiny.NETWORKS, params, frames, rasters)
    b = embed(tiny.NETWORKS, params, frames[:, ::-1], rasters[:, ::-1])
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_compute_type_leaves_parameters_and_outputs_in_float32():
    generator = tiny.NETWORKS.generator.clone(dtype=jnp.bfloat16)
    raster = jnp.zeros((1, tiny.SIZE, tiny.SIZE, 3))
    psi = jnp.ones((1, generator.psi_size))
    variables = generator.init(KEY, raster, psi)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    assert generator.apply(variables, raster, psi).dtype == jnp.float32

"""Every term against its formula, and where its gradient may not go."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flax_heads import losses
from flax_heads.objectives import LossWeights, image_terms


def test_hinge_is_the_papers_without_sigmoid():
    real, fake = jnp.array([2.0, 0.5, -1.0]), jnp.array([-3.0, 0.0, 2.0])
    expected = np.mean([0 + 0, 1 + 0.5, 3 + 2])
    np.testing.assert_allclose(losses.discriminator_loss(real, fake), expected)


def test_hinge_has_no_gradient_beyond_the_margin():
    gradient = jax.grad(losses.discriminator_loss, argnums=(0, 1))(
        jnp.array([1.5]), jnp.array([-1.5])
    )
    assert gradient[0][0] == 0 and gradient[1][0] == 0


def test_adversarial_loss_has_a_constant_gradient():
    np.testing.assert_allclose(
        jax.grad(losses.adversarial_loss)(jnp.array([-100.0, 100.0])), [-0.5, -0.5]
    )


@pytest.mark.parametrize("adversarial, feature_matching", [(1, 0), (0, 1), (1, 1)])
def test_a_weight_of_zero_costs_nothing(adversarial, feature_matching):
    """V sees real frames for L_FM alone."""
    fake, real, seen = jnp.zeros((1, 4, 4, 3)), jnp.ones((1, 4, 4, 3)), []

    def discriminate(x):
        seen.append(x)
        return x.mean((1, 2, 3)), [x]

    weights = LossWeights(1.0, adversarial, feature_matching)
    terms = image_terms(fake, real, discriminate, (), weights)
    assert ("adversarial" in terms, "feature_matching" in terms) == (
        bool(adversarial),
        bool(feature_matching),
    )
    assert len(seen) == 1 + feature_matching and seen[0] is fake


def test_content_loss_sums_means_over_taps():
    a = [jnp.ones((1, 2, 2, 3)), jnp.zeros((1, 1, 1, 7))]
    b = [jnp.zeros((1, 2, 2, 3)), jnp.full((1, 1, 1, 7), 2.0)]
    assert losses.content_loss(a, b) == 3.0


def test_feature_matching_mean_and_sum():
    fake = [jnp.ones((1, 2, 2, 1)), jnp.ones((1, 1, 1, 1)) * 3]
    real = [jnp.zeros((1, 2, 2, 1)), jnp.zeros((1, 1, 1, 1))]
    assert losses.feature_matching_loss(fake, real) == 2.0
    assert losses.feature_matching_loss(fake, real, sum_over_maps=True) == 4.0


def test_no_gradient_reaches_the_real_side_or_w():
    x, y = jnp.ones((1, 2, 2, 1)), jnp.zeros((1, 2, 2, 1))
    gradient = jax.grad(lambda r: losses.feature_matching_loss([x], [r]))(y)
    assert np.abs(gradient).max() == 0
    gradients = jax.grad(losses.match_loss, argnums=(0, 1))(
        jnp.ones((2, 4)), jnp.zeros((2, 4))
    )
    assert np.abs(gradients[0]).max() > 0
    assert np.abs(gradients[1]).max() == 0


def test_pixel_pyramid_of_a_constant_difference():
    a = jnp.zeros((1, 8, 8, 3))
    assert losses.pixel_pyramid_loss(a, a + 0.5, levels=3) == pytest.approx(1.5)
    # Fine noise vanishes at the coarser levels.
    noise = jnp.tile(
        jnp.array([[1.0, -1.0], [-1.0, 1.0]])[None, :, :, None], (1, 4, 4, 3)
    )
    assert losses.pixel_pyramid_loss(a, noise, levels=3) == pytest.approx(1.0)


def test_shapes_must_agree():
    with pytest.raises(ValueError, match="shapes differ"):
        losses.mean_l1(jnp.zeros((2, 3)), jnp.zeros((3,)))
    with pytest.raises(ValueError):
        losses.content_loss([jnp.zeros(3)], [])

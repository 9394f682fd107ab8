"""One function per term of the paper (section 3.2): arrays in, a float32 scalar out."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from flax_heads.layers import downsample


def mean_l1(a: jax.Array, b: jax.Array) -> jax.Array:
    """Mean absolute difference of two arrays of one shape, in float32."""
    if a.shape != b.shape:
        raise ValueError(f"shapes differ: {a.shape} and {b.shape}")
    return jnp.abs(a.astype(jnp.float32) - b.astype(jnp.float32)).mean()


def content_loss(fake: Sequence[jax.Array], real: Sequence[jax.Array]) -> jax.Array:
    """L_CNT for one perceptual network: L1 per tap, summed over taps (eq. 3)."""
    return sum(mean_l1(f, r) for f, r in zip(fake, real, strict=True))


def pixel_pyramid_loss(fake: jax.Array, real: jax.Array, levels: int = 3) -> jax.Array:
    """L1 of [B, H, W, 3] frames in [-1, 1] at `levels` scales, each half the last.

    Not in the paper: the content term of a model trained without VGG weights.
    """
    total = mean_l1(fake, real)
    for _ in range(levels - 1):
        fake, real = downsample(fake), downsample(real)
        total += mean_l1(fake, real)
    return total


def adversarial_loss(fake_scores: jax.Array) -> jax.Array:
    """The generator's half of the hinge game, -r-hat: eq. 4 without L_FM. [B] -> scalar."""
    return -fake_scores.mean()


def feature_matching_loss(
    fake: Sequence[jax.Array], real: Sequence[jax.Array], sum_over_maps: bool = False
) -> jax.Array:
    """L_FM: L1 between V's activations, the real side constant (section 3.2).

    The mean over the maps, or their sum (7 times stronger at the paper's depth).
    """
    total = sum(
        mean_l1(f, jax.lax.stop_gradient(r)) for f, r in zip(fake, real, strict=True)
    )
    return total if sum_over_maps else total / len(fake)


def match_loss(embedding: jax.Array, video_embedding: jax.Array) -> jax.Array:
    """L_MCH: mean |e-hat_i - W_i|, both [B, N]. W_i is a constant here.

    A gradient into W would let both sides run to each other's noise; W learns from the
    discriminator's loss alone.
    """
    return mean_l1(embedding, jax.lax.stop_gradient(video_embedding))


def discriminator_loss(real_scores: jax.Array, fake_scores: jax.Array) -> jax.Array:
    """L_DSC, the hinge loss (eq. 6): both [B], raw scores without a sigmoid."""
    hinge = jnp.maximum(0.0, 1.0 + fake_scores) + jnp.maximum(0.0, 1.0 - real_scores)
    return hinge.mean()

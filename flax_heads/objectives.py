"""The two sides of the game as objectives of networks; both kinds of training use them.

`meta_learning.py` and `fine_tuning.py` differ in what the generator's side is made of
and in the discriminator's person vector. What is asked of a frame is the same.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from flax_heads import losses, spectral
from flax_heads.discriminator import Discriminator


class PerceptualNetwork(struct.PyTreeNode):
    """A fixed network whose activations the content loss compares.

    A pytree, so that its parameters are an argument of a compiled step: as constants
    they would be copied into every program that is compiled or cached.

    Attributes:
      name: for logs.
      weight: factor of its term.
      apply: (variables, frames float [B, H, W, 3] in [-1, 1]) -> activations to compare.
      variables: the network's own parameters.
    """

    name: str = struct.field(pytree_node=False)
    weight: float = struct.field(pytree_node=False)
    apply: Callable[[Any, jax.Array], Sequence[jax.Array]] = struct.field(
        pytree_node=False
    )
    variables: Any


@dataclasses.dataclass(frozen=True)
class LossWeights:
    """Factors of the terms; the defaults are those of the paper's second version.

    Attributes:
      pixel: of the pixel pyramid, which is not in the paper.
      adversarial: of -r-hat, the part of L_ADV (eq. 4) that is not L_FM.
      feature_matching: of L_FM.
      match: lambda of L_MCH; 0 is the paper's FF variant.
      sum_feature_maps: sum L_FM over the maps instead of averaging it.
    """

    pixel: float = 0.0
    adversarial: float = 1.0
    feature_matching: float = 10.0
    match: float = 10.0
    sum_feature_maps: bool = False


def to_unit_range(images: jax.Array) -> jax.Array:
    """uint8 [0, 255] -> float32 [-1, 1]."""
    return images.astype(jnp.float32) / 127.5 - 1.0


def discriminator_objective(
    discriminator: Discriminator,
    params: Any,
    vectors: spectral.Vectors,
    video_embedding: jax.Array,
    real: jax.Array,
    fake: jax.Array,
    rasters: jax.Array,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """L_DSC over one batch; real and fake go through V as one batch of 2B.

    Args:
      discriminator: the module.
      params, vectors: theta, w0 and b, and their singular vectors.
      video_embedding: float [B, N], the rows W_i.
      real, fake, rasters: float [B, H, W, 3] in [-1, 1].

    Returns:
      the loss, and of the scores the means and the shares whose hinge is inactive:
      near 1 for both sides, V has nothing left to learn.
    """

    def pairs(x, y):  # side by side: one after the other would cross devices
        return jnp.stack([x, y], 1).reshape(-1, *x.shape[1:])

    scores, _ = discriminator.apply(
        {"params": spectral.normalize(params, vectors)},
        pairs(real, fake),
        pairs(rasters, rasters),
        pairs(video_embedding, video_embedding),
    )
    real_scores, fake_scores = scores.reshape(-1, 2).T
    metrics = {
        "score/real": real_scores.mean(),
        "score/fake": fake_scores.mean(),
        "score/real_saturated": (real_scores > 1).mean(dtype=jnp.float32),
        "score/fake_saturated": (fake_scores < -1).mean(dtype=jnp.float32),
    }
    return losses.discriminator_loss(real_scores, fake_scores), metrics


def image_terms(
    fake: jax.Array,
    real: jax.Array,
    discriminate: Callable[[jax.Array], tuple[jax.Array, Sequence[jax.Array]]],
    perceptual: Sequence[PerceptualNetwork],
    weights: LossWeights,
) -> dict[str, jax.Array]:
    """L_CNT and L_ADV of generated frames, weighted; a weight of 0 leaves its term out.

    Args:
      fake, real: float [B, H, W, 3] in [-1, 1]; only `fake` carries a gradient.
      discriminate: frames -> (scores [B], V's activations), with constant parameters.
      perceptual: the content loss's networks.
      weights: factors of the other terms.
    """
    content = sum(
        (
            net.weight
            * losses.content_loss(
                net.apply(net.variables, fake), net.apply(net.variables, real)
            )
            for net in perceptual
        ),
        start=jnp.zeros(()),
    )
    if weights.pixel:
        content += weights.pixel * losses.pixel_pyramid_loss(fake, real)
    terms = {"content": content}
    if weights.adversarial or weights.feature_matching:
        scores, features = discriminate(fake)
    if weights.adversarial:
        terms["adversarial"] = weights.adversarial * losses.adversarial_loss(scores)
    if weights.feature_matching:
        _, real_features = discriminate(real)
        terms["feature_matching"] = weights.feature_matching * (
            losses.feature_matching_loss(
                features, real_features, weights.sum_feature_maps
            )
        )
    return terms

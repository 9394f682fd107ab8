"""What training carries from step to step, and how it begins."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import struct

from flax_heads import spectral
from flax_heads.discriminator import Discriminator
from flax_heads.embedder import Embedder
from flax_heads.generator import Generator, Projection
from flax_heads.video_embeddings import VideoEmbeddings, init_video_embeddings


class Networks(NamedTuple):
    """The modules of one model, without their parameters."""

    embedder: Embedder
    generator: Generator
    projection: Projection
    discriminator: Discriminator


@dataclasses.dataclass(frozen=True)
class Adam:
    """Adam's settings; docs/method.md says where the defaults come from."""

    learning_rate: float
    b1: float = 0.0
    b2: float = 0.999
    eps: float = 1e-5

    def transformation(self) -> optax.GradientTransformation:
        """Adam; without its first moment where b1 = 0, which makes it the gradient."""
        if self.b1:
            return optax.adam(self.learning_rate, b1=self.b1, b2=self.b2, eps=self.eps)
        scale = optax.scale_by_rms(
            self.b2, self.eps, eps_in_sqrt=False, bias_correction=True
        )
        return optax.chain(scale, optax.scale_by_learning_rate(self.learning_rate))


def choose(ok: jax.Array | bool, new: Any, old: Any) -> Any:
    """`new` where `ok`, else `old`; two trees of one structure."""
    if ok is True:
        return new
    return jax.tree.map(lambda a, b: jnp.where(ok, a, b), new, old)


class Player(struct.PyTreeNode):
    """One side of the game: its parameters, singular vectors and optimiser state."""

    params: Any
    vectors: spectral.Vectors
    opt_state: optax.OptState

    def normalized(self) -> Any:
        return spectral.normalize(self.params, self.vectors)

    def updated(
        self, gradients: Any, adam: Adam, ok: jax.Array | bool = True
    ) -> Player:
        """After one optimiser update and the power iteration that belongs to it.

        Where `ok` (bool, scalar) is False, all stays as it was.
        """
        updates, opt_state = adam.transformation().update(
            gradients, self.opt_state, self.params
        )
        params = optax.apply_updates(self.params, updates)
        # Chosen before they are used, so that choosing is a part of the same loop.
        params, opt_state = choose(
            ok, (params, opt_state), (self.params, self.opt_state)
        )
        vectors = spectral.power_iteration(params, self.vectors)
        return Player(params, choose(ok, vectors, self.vectors), opt_state)


class TrainState(struct.PyTreeNode):
    """All of meta-training's state; a checkpoint is exactly this.

    Attributes:
      step: int32, steps so far, with those that were skipped.
      generator: params of "embedder", "generator" and "projection" (phi, psi, P).
      discriminator: params of V with w0 and b (theta).
      video_embeddings: W.
      ema: moving average of `generator.params`.
    """

    step: jax.Array
    generator: Player
    discriminator: Player
    video_embeddings: VideoEmbeddings
    ema: Any


def make_networks(
    embedder: Mapping[str, Any],
    generator: Mapping[str, Any],
    discriminator: Mapping[str, Any],
    dtype: str = "float32",
    remat: bool = False,
) -> Networks:
    """Builds the modules from their attributes (`Embedder(**embedder)` and so on)."""

    def build(module, attributes):
        frozen = {
            name: tuple(value) if isinstance(value, list | tuple) else value
            for name, value in attributes.items()
        }
        return module(**frozen, dtype=jnp.dtype(dtype), remat=remat)

    g = build(Generator, generator)
    networks = Networks(
        build(Embedder, embedder),
        g,
        Projection(g.style_channels),
        build(Discriminator, discriminator),
    )
    if networks.embedder.channels[-1] != networks.discriminator.channels[-1]:
        raise ValueError(
            "the last widths of embedder and discriminator must agree: both are the "
            f"embedding size N, got {networks.embedder.channels[-1]} and "
            f"{networks.discriminator.channels[-1]}"
        )
    return networks


def start_player(params: Any, vectors: spectral.Vectors, adam: Adam) -> Player:
    """A player with fresh optimiser state."""
    return Player(params, vectors, adam.transformation().init(params))


def init_state(
    networks: Networks,
    key: jax.Array,
    *,
    size: int,
    num_videos: int,
    generator_adam: Adam,
    discriminator_adam: Adam,
) -> TrainState:
    """A fresh state. Pure: call it under `jit` with the shardings wanted.

    Args:
      networks: from `make_networks`.
      key: jax.random key.
      size: side of the frames in pixels.
      num_videos: M.
      generator_adam, discriminator_adam: the two optimisers.
    """
    keys = iter(jax.random.split(key, 7))
    image = jnp.zeros((1, size, size, 3))
    embedding = jnp.zeros((1, networks.embedder.channels[-1]))
    psi = jnp.zeros((1, networks.generator.psi_size))
    generator_params = {
        "embedder": networks.embedder.init(next(keys), image, image)["params"],
        "generator": networks.generator.init(next(keys), image, psi)["params"],
        "projection": networks.projection.init(next(keys), embedding)["params"],
    }
    discriminator_params = networks.discriminator.init(
        next(keys), image, image, embedding
    )["params"]
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        generator=start_player(
            generator_params,
            spectral.init_vectors(generator_params, next(keys)),
            generator_adam,
        ),
        discriminator=start_player(
            discriminator_params,
            spectral.init_vectors(discriminator_params, next(keys)),
            discriminator_adam,
        ),
        video_embeddings=init_video_embeddings(
            next(keys), num_videos, embedding.shape[-1]
        ),
        ema=jax.tree.map(jnp.copy, generator_params),
    )


def update_ema(ema: Any, params: Any, decay: float, step: jax.Array) -> Any:
    """Moving average whose decay warms up as (1 + step) / (10 + step).

    Without the warm-up the first thousand averages are mostly the random start.
    """
    decay = jnp.minimum(decay, (1.0 + step) / (10.0 + step))
    return jax.tree.map(lambda e, p: decay * e + (1 - decay) * p, ema, params)

"""Few-shot learning of one person from T photos (paper, section 3.3)."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct
from jax.tree_util import Partial

from flax_heads import losses, spectral
from flax_heads.discriminator import embedding_init
from flax_heads.meta_learning import Metrics, embed, generate, project
from flax_heads.objectives import (
    LossWeights,
    PerceptualNetwork,
    discriminator_objective,
    image_terms,
    to_unit_range,
)
from flax_heads.state import Adam, Networks, Player, choose, start_player, update_ema

_REPORT_EVERY = 5  # iterations between reports of progress, where the host dispatches
_MOST_REPORTS = 10  # where the device runs many iterations by itself


class FineTuneState(struct.PyTreeNode):
    """One person's networks while they learn.

    Attributes:
      step: int32, iterations so far.
      skipped: int32, how many of them were not finite and changed nothing.
      generator: params "generator" and "psi", the free vector psi' [P].
      discriminator: V with w0 holding w' (eq. 8), and b.
      ema: moving average of `generator.params`.
    """

    step: jax.Array
    skipped: jax.Array
    generator: Player
    discriminator: Player
    ema: Any


def personalize(
    networks: Networks,
    params: Any,
    vectors: spectral.Vectors,
    discriminator_params: Any,
    discriminator_vectors: spectral.Vectors,
    photos: jax.Array,
    rasters: jax.Array,
    generator_adam: Adam,
    discriminator_adam: Adam,
    *,
    key: jax.Array,
    random_psi: bool = False,
    random_w: bool = False,
) -> FineTuneState:
    """Starts a person from the meta-learned networks: psi' = P e, w' = w0 + e (eq. 7, 8).

    The optimisers are made here, after psi' and w' exist, so that they train as well.

    Args:
      networks: the modules.
      params, vectors: meta-learned "embedder", "generator", "projection".
      discriminator_params, discriminator_vectors: meta-learned V with w0 and b.
      photos, rasters: uint8 [T, H, W, 3].
      generator_adam, discriminator_adam: the optimisers.
      key: of the random starts.
      random_psi: an ablation of the paper: psi' starts as standard normal noise.
      random_w: the same for w': w0 plus a vector as those that W begins with.
    """
    normalized = spectral.normalize(params, vectors)
    embedding = embed(
        networks, normalized, to_unit_range(photos)[None], to_unit_range(rasters)[None]
    )  # [1, N]
    psi = project(networks, normalized, embedding)[0]  # [P]
    if random_psi:
        psi = jax.random.normal(jax.random.fold_in(key, 0), psi.shape)
    start_of_w = embedding[0]  # [N]
    if random_w:
        start_of_w = embedding_init(jax.random.fold_in(key, 1), start_of_w.shape)
    generator = {"generator": params["generator"], "psi": psi}
    discriminator = dict(discriminator_params)
    discriminator["w0"] = discriminator["w0"] + start_of_w
    kept = {
        path: pair for path, pair in vectors.items() if path.startswith("generator/")
    }
    return FineTuneState(
        step=jnp.zeros((), jnp.int32),
        skipped=jnp.zeros((), jnp.int32),
        generator=start_player(generator, kept, generator_adam),
        discriminator=start_player(
            discriminator, discriminator_vectors, discriminator_adam
        ),
        ema=jax.tree.map(jnp.copy, generator),
    )


def make_fine_tune_step(
    networks: Networks,
    generator_adam: Adam,
    discriminator_adam: Adam,
    weights: LossWeights,
    perceptual: Sequence[PerceptualNetwork] = (),
    *,
    discriminator_updates: int = 2,
    ema_decay: float = 0.972,
) -> Partial:
    """Builds `(state, batch) -> (state, metrics)` over "frames" and "rasters".

    As `make_meta_step`, and a pytree as well, without E, P and L_MCH: L'_DSC moves
    theta, w' and b, then, by the new discriminator, L_CNT + L'_ADV move G and psi'.
    What is not finite is skipped and counted in the state. Batch images are uint8
    [B, H, W, 3]. Where no term of `weights` asks the discriminator (the paper's
    ablation without L'_ADV), it rests.
    """
    if not (weights.adversarial or weights.feature_matching):
        discriminator_updates = 0

    def fine_tune_step(perceptual, state, batch):
        real = to_unit_range(batch["frames"])
        rasters = to_unit_range(batch["rasters"])
        # w' stands in w0's place, so the embedding that is added to it is zero.
        no_video = jnp.zeros((len(real), networks.embedder.channels[-1]))

        def forward(params):
            normalized = spectral.normalize(params, state.generator.vectors)
            psi = jnp.broadcast_to(params["psi"], (len(real), *params["psi"].shape))
            return generate(networks, normalized, rasters, psi)

        fake, pull_back = jax.vjp(forward, state.generator.params)

        discriminator, d_metrics, must_be_finite = state.discriminator, {}, []
        for _ in range(discriminator_updates):
            (d_loss, scores), gradients = jax.value_and_grad(
                functools.partial(discriminator_objective, networks.discriminator),
                has_aux=True,
            )(
                discriminator.params,
                discriminator.vectors,
                no_video,
                real,
                fake,
                rasters,
            )
            must_be_finite += [d_loss, optax.tree.norm(gradients)]
            discriminator = discriminator.updated(gradients, discriminator_adam)
            d_metrics = {"loss/discriminator": d_loss, **scores}

        variables = {"params": discriminator.normalized()}

        def objective(fake):
            terms = image_terms(
                fake,
                real,
                lambda x: networks.discriminator.apply(variables, x, rasters, no_video),
                perceptual,
                weights,
            )
            return sum(terms.values()), terms

        fake_grads, terms = jax.grad(objective, has_aux=True)(fake)
        (gradients,) = pull_back(fake_grads)
        must_be_finite += [*terms.values(), optax.tree.norm(gradients)]
        ok = jnp.isfinite(jnp.stack(must_be_finite)).all()
        generator = state.generator.updated(gradients, generator_adam, ok)
        metrics = {f"loss/{name}": value for name, value in terms.items()}
        metrics |= d_metrics
        metrics["l1"] = losses.mean_l1(fake, real) / 2  # of frames in [0, 1]
        ema = update_ema(state.ema, generator.params, ema_decay, state.step)
        return (
            FineTuneState(
                step=state.step + 1,
                skipped=state.skipped + ~ok,
                generator=generator,
                discriminator=choose(ok, discriminator, state.discriminator),
                ema=choose(ok, ema, state.ema),
            ),
            metrics,
        )

    return Partial(fine_tune_step, tuple(perceptual))


def make_advance(step: Partial, batch_size: int) -> Partial:
    """Builds iterations over min(batch_size, T) photos drawn at random.

    Args:
      step: from `make_fine_tune_step`.
      batch_size: photos of an iteration, at most.

    Returns:
      `(state, photos, rasters, key, count=1) -> (state, metrics)`, pure, with uint8
      [T, H, W, 3]: `count` iterations, which compile to one program, and the metrics
      of the last. A pytree, as `step`; compile it with `compile_advance`.
    """

    def advance(step, state, photos, rasters, key, count=1):
        def iterate(state, _):
            order = jax.random.permutation(
                jax.random.fold_in(key, state.step), len(photos)
            )[: min(batch_size, len(photos))]
            return step(state, {"frames": photos[order], "rasters": rasters[order]})

        if count == 1:
            return iterate(state, None)
        state, metrics = jax.lax.scan(iterate, state, length=count)
        return state, jax.tree.map(lambda values: values[-1], metrics)

    return Partial(advance, step)


def compile_advance(advance: Partial) -> Callable[..., tuple[FineTuneState, Metrics]]:
    """Compiles it, once per T and `count`; the state passed in is donated."""

    @functools.partial(jax.jit, static_argnames="count", donate_argnums=1)
    def run(advance, state, photos, rasters, key, count=1):
        return advance(state, photos, rasters, key, count=count)

    return functools.partial(run, advance)


def prefers_one_program() -> bool:
    """Whether many iterations, or many people, should be one program on this backend.

    The one place that asks. XLA's CPU backend runs convolutions inside a loop on one
    thread, 36 times slower, and those of people side by side (grouped ones) without its
    fast kernels: there the host dispatches each iteration of each person.
    """
    return jax.default_backend() != "cpu"


def iterations_at_once(num_iterations: int) -> int:
    """How many iterations run before the host hears of them: their number or 1/2 … 1/10.

    Equal parts, so that only one program is compiled.
    """
    if not prefers_one_program():
        return 1
    parts = max(n for n in range(1, _MOST_REPORTS + 1) if num_iterations % n == 0)
    return max(1, num_iterations // parts)


def run_fine_tuning(
    advance: Callable[..., tuple[FineTuneState, Metrics]],
    state: FineTuneState,
    photos: np.ndarray,
    rasters: np.ndarray,
    *,
    num_iterations: int,
    seed: int,
    at_once: int | None = None,
    on_progress: Callable[[int, dict[str, float]], None] = lambda step, metrics: None,
) -> FineTuneState:
    """Runs `num_iterations` of `make_advance`'s iterations.

    Args:
      advance: compiled, of one person, or of several whose state and photos have a
        leading axis.
      state: from `personalize`; donated.
      photos, rasters: uint8 [T, H, W, 3].
      num_iterations: optimiser updates of the generator.
      seed: of the order in which the photos are visited.
      at_once: iterations in one program; must divide `num_iterations`. By default what
        suits the backend. The numbers do not depend on it.
      on_progress: called with the iterations done and the last metrics, means over
        people.
    """
    at_once = at_once or iterations_at_once(num_iterations)
    if num_iterations % at_once:
        raise ValueError(f"{num_iterations} iterations in parts of {at_once}")
    key = jax.random.key(seed)
    photos, rasters = jnp.asarray(photos), jnp.asarray(rasters)
    for done in range(at_once, num_iterations + 1, at_once):
        state, metrics = advance(state, photos, rasters, key, count=at_once)
        if at_once > 1 or done % _REPORT_EVERY == 0 or done == num_iterations:
            # Reading the numbers also keeps the host from running far ahead.
            values = {k: float(np.mean(v)) for k, v in jax.device_get(metrics).items()}
            on_progress(done, values)
    return state

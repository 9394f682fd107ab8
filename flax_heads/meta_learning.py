"""Meta-training (paper, section 3.2): one pure step from state and batch to state."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.tree_util import Partial

from flax_heads import losses, spectral
from flax_heads.accumulation import over_parts
from flax_heads.objectives import (
    LossWeights,
    PerceptualNetwork,
    discriminator_objective,
    image_terms,
    to_unit_range,
)
from flax_heads.state import Adam, Networks, TrainState, choose, update_ema
from flax_heads.video_embeddings import put_rows, take_rows, update_rows

Batch = dict[str, jax.Array]
Metrics = dict[str, jax.Array]


def embed(networks: Networks, params: Any, frames: jax.Array, rasters: jax.Array):
    """e-hat, the mean embedding over a person's images (eq. 1 and 7).

    Args:
      networks: the modules.
      params: the generator side's parameters, spectrally normalised.
      frames, rasters: float [B, K, H, W, 3] in [-1, 1].

    Returns:
      float32 [B, N].
    """
    b, k, *image = frames.shape
    embeddings = networks.embedder.apply(
        {"params": params["embedder"]},
        frames.reshape(b * k, *image),
        rasters.reshape(b * k, *image),
    )
    return embeddings.reshape(b, k, -1).mean(1)


def generate(networks: Networks, params: Any, rasters: jax.Array, psi: jax.Array):
    """x-hat = G(y, psi) (eq. 2): rasters [B, H, W, 3], psi [B, P] -> frames [-1, 1]."""
    return networks.generator.apply({"params": params["generator"]}, rasters, psi)


def project(networks: Networks, params: Any, embedding: jax.Array) -> jax.Array:
    """psi = P e-hat: [B, N] -> [B, P]."""
    return networks.projection.apply({"params": params["projection"]}, embedding)


def make_meta_step(
    networks: Networks,
    generator_adam: Adam,
    discriminator_adam: Adam,
    weights: LossWeights,
    perceptual: Sequence[PerceptualNetwork] = (),
    *,
    discriminator_updates: int = 2,
    ema_decay: float = 0.999,
    accumulate: int = 1,
    axis_name: str | None = None,
) -> Partial:
    """Builds `(state, batch) -> (state, metrics)`.

    The step is a pytree that holds the content loss's networks: given to `jax.jit` as
    an argument (`parallel.compile_step`), their parameters are no constants.

    Order within a step, and what each loss moves:
      1. x-hat and e-hat are computed once; the pullback to phi, psi, P is kept.
      2. `discriminator_updates` times, L_DSC on the constant x-hat moves theta, w0, b
         and the batch's rows of W. G does not change meanwhile, so x-hat stays valid.
         It learns so even where no term of `weights` asks it: fine-tuning may.
      3. L_CNT + L_ADV + L_MCH is evaluated against the *updated* discriminator and
         pulled back to phi, psi, P. Nothing of it reaches theta or W.
      4. If a loss or the norm of a gradient is not finite, the step is skipped: all of
         the state but its `step` stays, and the metric `skipped` is 1.

    Args:
      networks: the modules.
      generator_adam, discriminator_adam: optimisers; the latter's b1 must be 0, on
        which the row-sparse update of W relies.
      weights: factors of the loss terms.
      perceptual: networks of the content loss.
      discriminator_updates: updates of D per update of G; the paper's is 2.
      ema_decay: of the moving average of the generator side's parameters.
      accumulate: parts of the batch whose gradients are averaged one after the other
        for each update. The numbers are those of one part, in the memory of a small
        batch and for one more forward pass of E and G.
      axis_name: the mapped axis to average over under `jax.pmap`. Leave it None under
        `jit`, where the batch is one global array.

    Raises:
      ValueError: the discriminator's b1 is not 0.
    """
    if discriminator_adam.b1 != 0:
        raise ValueError("the sparse update of W needs discriminator b1 = 0")

    def average(tree):
        return jax.lax.pmean(tree, axis_name) if axis_name else tree

    def gather(tree):
        if axis_name is None:
            return tree
        return jax.lax.all_gather(tree, axis_name, tiled=True)

    def mine(rows):  # undoes `gather`
        if axis_name is None:
            return rows
        count = len(rows) // jax.lax.axis_size(axis_name)
        start = jax.lax.axis_index(axis_name) * count
        return jax.lax.dynamic_slice_in_dim(rows, start, count)

    def forward(side, part):
        """(x-hat [B, H, W, 3], e-hat [B, N]) and their pullback to phi, psi, P."""

        def draw(params):
            params = spectral.normalize(params, side.vectors)
            embedding = embed(
                networks,
                params,
                to_unit_range(part["support_frames"]),  # [B, K, H, W, 3]
                to_unit_range(part["support_rasters"]),
            )
            psi = project(networks, params, embedding)
            rasters = to_unit_range(part["target_raster"])  # [B, H, W, 3]
            return generate(networks, params, rasters, psi), embedding

        return jax.vjp(draw, side.params)

    def discriminator_gradients(discriminator, part, rows, fake):
        """Of L_DSC, with the loss and the scores; and of each row of W."""
        real = to_unit_range(part["target_frame"])
        rasters = to_unit_range(part["target_raster"])

        def objective(params, rows):
            return discriminator_objective(
                networks.discriminator,
                params,
                discriminator.vectors,
                rows,
                real,
                fake,
                rasters,
            )

        (loss, scores), (gradients, row_gradients) = jax.value_and_grad(
            objective, argnums=(0, 1), has_aux=True
        )(discriminator.params, rows)
        return (gradients, loss, scores), row_gradients

    def generator_gradients(perceptual, variables, part, rows, outputs, pull_back):
        """Of L_CNT + L_ADV + L_MCH against a constant discriminator, and metrics."""
        real = to_unit_range(part["target_frame"])
        rasters = to_unit_range(part["target_raster"])

        def objective(fake, embedding):
            terms = image_terms(
                fake,
                real,
                lambda x: networks.discriminator.apply(variables, x, rasters, rows),
                perceptual,
                weights,
            )
            if weights.match:
                terms["match"] = weights.match * losses.match_loss(embedding, rows)
            return sum(terms.values()), terms

        gradients, terms = jax.grad(objective, argnums=(0, 1), has_aux=True)(*outputs)
        (gradients,) = pull_back(gradients)
        fake, embedding = outputs
        metrics = {f"loss/{name}": value for name, value in terms.items()}
        metrics |= {
            "l1": losses.mean_l1(fake, real) / 2,  # of frames in [0, 1]
            "norm/embedding": jnp.linalg.norm(embedding, axis=-1).mean(),
            "norm/video_embedding": jnp.linalg.norm(rows, axis=-1).mean(),
            "match/cosine": optax.losses.cosine_similarity(
                embedding, rows, epsilon=1e-8
            ).mean(),
        }
        return gradients, metrics

    def meta_step(perceptual, state: TrainState, batch: Batch):
        in_parts = functools.partial(over_parts, accumulate)
        if accumulate == 1:
            (fake, embedding), pull_back = forward(state.generator, batch)
        else:  # only the frames are kept; the way back is walked part by part below
            _, fake = in_parts(
                lambda part: ({}, forward(state.generator, part)[0][0]), batch
            )

        discriminator = state.discriminator
        video_index = gather(batch["video_index"])  # [B], of the global batch
        rows_before = rows = take_rows(state.video_embeddings, video_index)
        must_be_finite = []
        for i in range(discriminator_updates):
            (d_grads, d_loss, scores), row_grads = in_parts(
                functools.partial(discriminator_gradients, discriminator),
                batch,
                mine(rows.values),  # [B, N]
                fake,
            )
            d_grads, d_loss = average((d_grads, d_loss))
            row_grads = gather(row_grads) / (
                accumulate * (jax.lax.axis_size(axis_name) if axis_name else 1)
            )
            d_grad_norm = optax.tree.norm(d_grads)
            must_be_finite += [d_loss, d_grad_norm, optax.tree.norm(row_grads)]
            discriminator = discriminator.updated(d_grads, discriminator_adam)
            rows = update_rows(
                rows,
                video_index,
                row_grads,
                discriminator_updates * state.step + i + 1,
                learning_rate=discriminator_adam.learning_rate,
                b2=discriminator_adam.b2,
                eps=discriminator_adam.eps,
            )

        against = functools.partial(
            generator_gradients, perceptual, {"params": discriminator.normalized()}
        )
        if accumulate == 1:
            g_grads, metrics = against(
                batch, mine(rows.values), (fake, embedding), pull_back
            )
        else:
            (g_grads, metrics), _ = in_parts(
                lambda part, rows: (
                    against(part, rows, *forward(state.generator, part)),
                    {},
                ),
                batch,
                mine(rows.values),
            )
        g_grads = average(g_grads)

        mean_fake = average(fake.mean(0))  # [H, W, 3]
        metrics = average({"loss/discriminator": d_loss, **scores, **metrics})
        metrics |= {
            "fake/std_over_batch": jnp.sqrt(
                average(jnp.square(fake - mean_fake).mean())
            ),
            "fake/std_over_space": jnp.sqrt(average(fake.var((1, 2)).mean())),
            "norm/generator_gradient": optax.tree.norm(g_grads),
            "norm/discriminator_gradient": d_grad_norm,
        }
        must_be_finite += [v for name, v in metrics.items() if name.startswith("loss/")]
        must_be_finite.append(metrics["norm/generator_gradient"])
        ok = jnp.isfinite(jnp.stack(must_be_finite)).all()
        metrics["skipped"] = 1.0 - ok

        generator = state.generator.updated(g_grads, generator_adam, ok)
        ema = update_ema(state.ema, generator.params, ema_decay, state.step)
        # Chosen among the batch's rows, not between two tables: W is large.
        rows = choose(ok, rows, rows_before)
        return (
            TrainState(
                step=state.step + 1,
                generator=generator,
                discriminator=choose(ok, discriminator, state.discriminator),
                video_embeddings=put_rows(state.video_embeddings, video_index, rows),
                ema=choose(ok, ema, state.ema),
            ),
            metrics,
        )

    return Partial(meta_step, tuple(perceptual))

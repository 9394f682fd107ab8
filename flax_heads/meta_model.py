"""A meta-learned model, loaded: what turns a few photos into a talking head."""

from __future__ import annotations

import dataclasses
import functools
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from data_pipeline.augment import augment_all
from data_pipeline.raster import RasterStyle, draw_rasters
from flax_heads import checkpoints, recipe, spectral
from flax_heads.fine_tuning import (
    compile_advance,
    make_advance,
    make_fine_tune_step,
    personalize,
    run_fine_tuning,
)
from flax_heads.state import Networks
from flax_heads.talking_head import TalkingHead


@dataclasses.dataclass(frozen=True)
class MetaModel:
    """Meta-learned networks and how they were made.

    Attributes:
      config: of the training run.
      step: of the checkpoint.
      networks: the modules.
      params: moving averages of "embedder", "generator" and "projection".
      vectors: their singular vectors.
      discriminator, discriminator_vectors: V with w0 and b.
      source: the workdir it came from.
    """

    config: ConfigDict
    step: int
    networks: Networks
    params: Any
    vectors: spectral.Vectors
    discriminator: Any
    discriminator_vectors: spectral.Vectors
    source: str

    @property
    def size(self) -> int:
        """Side of the frames in pixels."""
        return self.config.size

    @property
    def style(self) -> RasterStyle:
        return recipe.raster_style(self.config)

    def steps(self) -> tuple[Callable, Callable]:
        """`personalize` and `make_advance`'s iterations by the config; pure functions."""
        config = self.config
        adams = recipe.adams(config, "fine_tune")
        start = functools.partial(
            personalize,
            self.networks,
            generator_adam=adams[0],
            discriminator_adam=adams[1],
            random_psi=config.fine_tune.random_psi,
            random_w=config.fine_tune.random_w,
        )
        weights = recipe.loss_weights(config)
        if not config.fine_tune.adversarial:
            weights = dataclasses.replace(weights, adversarial=0, feature_matching=0)
        step = make_fine_tune_step(
            self.networks,
            *adams,
            weights,
            recipe.perceptual(config),
            discriminator_updates=config.optimizer.discriminator_updates,
            ema_decay=config.fine_tune.ema_decay,
        )
        return start, make_advance(step, config.fine_tune.batch_size)

    @functools.cached_property
    def tuner(self) -> tuple[Callable, Callable]:
        """`steps`, compiled; shared by all people."""
        start, advance = self.steps()
        return jax.jit(start), compile_advance(advance)

    @property
    def learned(self) -> tuple[Any, spectral.Vectors, Any, spectral.Vectors]:
        """What `personalize` starts from, in its order."""
        return (
            self.params,
            self.vectors,
            self.discriminator,
            self.discriminator_vectors,
        )


def load_model(workdir: str | pathlib.Path, step: int | None = None) -> MetaModel:
    """Loads the networks of a training run, by default its newest checkpoint.

    Raises:
      InputError: no checkpoint there.
    """
    step, values, loaded = checkpoints.load_for_fine_tuning(workdir, step)
    config = recipe.from_json(values)
    params = loaded["ema"]
    # The saved vectors are the live parameters'; the averages need their own.
    vectors = _refine(params, loaded["generator_vectors"])
    return MetaModel(
        config=config,
        step=step,
        networks=recipe.networks(config),
        params=params,
        vectors=vectors,
        discriminator=loaded["discriminator"],
        discriminator_vectors=loaded["discriminator_vectors"],
        source=str(workdir),
    )


@jax.jit
def _refine(params: Any, vectors: spectral.Vectors) -> spectral.Vectors:
    return spectral.power_iteration(params, vectors, num_iterations=10)


def fold(params: Any, vectors: spectral.Vectors) -> Any:
    """Divides the weights by their spectral norms, for good."""
    return spectral.normalize(params, _refine(params, vectors))


_fold = jax.jit(fold)


def fine_tune(
    model: MetaModel,
    photos: np.ndarray,
    landmarks: np.ndarray,
    *,
    num_iterations: int | None = None,
    seed: int = 0,
    on_progress: Callable[[int, dict[str, float]], None] = lambda step, metrics: None,
) -> TalkingHead:
    """Learns one person from T photos (section 3.3).

    Args:
      model: from `load_model`.
      photos: uint8 [T, size, size, 3], cropped as `people.load_person` does.
      landmarks: float [T, 68, 2] in pixels of the photos.
      num_iterations: optimiser updates; the model's config says by default. 0 is the
        feed-forward variant: psi is P e, and nothing is trained.
      seed: of the order in which the photos are visited, and of random starts.
      on_progress: called with the iterations done and the last metrics.

    Returns:
      the talking head, spectral norm folded into its weights.
    """
    if num_iterations is None:
        num_iterations = model.config.fine_tune.num_iterations
    start, advance = model.tuner
    rasters = draw_rasters(landmarks, model.size, model.style)
    state = start(*model.learned, photos, rasters, key=jax.random.key(seed))
    state = run_fine_tuning(
        advance,
        state,
        *training_pictures(model, photos, landmarks, num_iterations, seed),
        num_iterations=num_iterations,
        seed=seed,
        on_progress=on_progress,
    )
    folded = jax.device_get(_fold(state.ema, state.generator.vectors))
    return as_head(model, folded, photos, landmarks, num_iterations, seed)


def training_pictures(
    model: MetaModel,
    photos: np.ndarray,
    landmarks: np.ndarray,
    num_iterations: int,
    seed: int,
) -> tuple[np.ndarray, np.ndarray]:
    """What a person is tuned on: pictures and rasters, uint8 [T', size, size, 3].

    T' is T, or more by the config's augmentations, and depends on nothing else.
    """
    count = model.config.fine_tune.augmentations if num_iterations else 0
    pictures, points = augment_all(photos, landmarks, count, seed)
    return pictures, draw_rasters(points, model.size, model.style)


def as_head(
    model: MetaModel,
    folded: Any,
    photos: np.ndarray,
    landmarks: np.ndarray,
    num_iterations: int,
    seed: int,
) -> TalkingHead:
    """A person's numbers, from `fold`, with all that drawing them needs."""
    config = model.config
    return TalkingHead(
        generator=config.model.generator.to_dict() | {"dtype": config.model.dtype},
        params=folded["generator"],
        psi=folded["psi"],
        size=model.size,
        style=model.style,
        landmarks=np.asarray(landmarks, np.float32),
        photos=photos,
        history=tuning_history(model, num_iterations, seed) | {"photos": len(photos)},
    )


def tuning_history(model: MetaModel, num_iterations: int, seed: int) -> dict[str, Any]:
    """How a head was made: two of one person and one history are the same head."""
    return {
        "model": model.source,
        "model_step": model.step,
        "iterations": num_iterations,
        "seed": seed,
    }

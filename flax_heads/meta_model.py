"""A meta-learned model, loaded: what turns a few photos into a talking head."""

from __future__ import annotations

import dataclasses
import functools
import pathlib
from collections.abc import Callable
from typing import Any, Literal

import jax
import numpy as np
from jax.tree_util import Partial
from ml_collections import ConfigDict

from data_pipeline.augment import augment_all, augment_held_out
from data_pipeline.raster import RasterStyle, draw_rasters
from flax_heads import model_file, recipe, spectral
from flax_heads.early_stopping import Pictures, Rule, learn, make_check, outcome
from flax_heads.fine_tuning import (
    compile_advance,
    make_advance,
    make_fine_tune_step,
    personalize,
)
from flax_heads.state import Networks, TrainState
from flax_heads.talking_head import TalkingHead

_WARPS_TO_CHECK = 8  # one batch
_PHOTOS_TO_SPARE = 3  # so many photos leave at least two when one is kept aside


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
      source: the workdir or file it came from, or "bundled".
    """

    config: ConfigDict
    step: int
    networks: Networks
    params: Any
    vectors: spectral.Vectors
    discriminator: Any
    discriminator_vectors: spectral.Vectors
    source: str

    @classmethod
    def of_state(
        cls, config: ConfigDict, state: TrainState, source: str = ""
    ) -> MetaModel:
        """The model of a fresh state, whose averages are the parameters themselves."""
        return cls(
            config=config,
            step=int(state.step),
            networks=recipe.networks(config),
            params=state.ema,
            vectors=state.generator.vectors,
            discriminator=state.discriminator.params,
            discriminator_vectors=state.discriminator.vectors,
            source=source,
        )

    @property
    def size(self) -> int:
        """Side of the frames in pixels."""
        return self.config.size

    @property
    def style(self) -> RasterStyle:
        return recipe.raster_style(self.config)

    def with_dtype(self, dtype: str) -> MetaModel:
        """The same model, fine-tuning and drawing in "float32" or "bfloat16".

        bfloat16 is faster where there are units for it: GPUs, TPUs, some CPUs. Parameters,
        norms' statistics, losses and the optimisers stay float32.
        """
        config = self.config.copy_and_resolve_references()
        config.model.dtype = dtype
        return dataclasses.replace(
            self, config=config, networks=recipe.networks(config)
        )

    def rule(self, num_iterations: int | None = None) -> Rule:
        """When fine-tuning ends: by the config, or after exactly `num_iterations`."""
        if num_iterations is not None:
            return Rule(num_iterations)
        config = self.config.fine_tune
        return Rule(config.num_iterations, config.check_every, config.patience)

    def start(self) -> Callable:
        """`personalize` by the config; a pure function."""
        config = self.config.fine_tune
        generator_adam, discriminator_adam = recipe.adams(self.config, "fine_tune")
        return functools.partial(
            personalize,
            self.networks,
            generator_adam=generator_adam,
            discriminator_adam=discriminator_adam,
            random_psi=config.random_psi,
            random_w=config.random_w,
        )

    def advance(self) -> Partial:
        """`make_advance`'s iterations by the config; a pure function.

        Raises:
          InputError: a file of the content loss's networks is not there.
        """
        config = self.config
        weights = recipe.loss_weights(config)
        if not config.fine_tune.adversarial:
            weights = dataclasses.replace(weights, adversarial=0, feature_matching=0)
        step = make_fine_tune_step(
            self.networks,
            *recipe.adams(config, "fine_tune"),
            weights,
            recipe.perceptual(config),
            discriminator_updates=config.optimizer.discriminator_updates,
            ema_decay=config.fine_tune.ema_decay,
        )
        return make_advance(step, config.fine_tune.batch_size)

    @functools.cached_property
    def compiled_start(self) -> Callable:
        """`start`, compiled; shared by all people."""
        return jax.jit(self.start())

    @functools.cached_property
    def compiled_advance(self) -> Callable:
        """`advance`, compiled; shared by all people."""
        return compile_advance(self.advance())

    @functools.cached_property
    def check(self) -> Callable:
        """`make_check` by the config, compiled; shared by all people."""
        return jax.jit(make_check(self.networks, self.rule()))

    @property
    def learned(self) -> tuple[Any, spectral.Vectors, Any, spectral.Vectors]:
        """What `personalize` starts from, in its order."""
        return (
            self.params,
            self.vectors,
            self.discriminator,
            self.discriminator_vectors,
        )


def load_model(
    source: str | pathlib.Path | None = None,
    step: int | Literal["best"] | None = None,
) -> MetaModel:
    """Loads meta-learned networks: by default those that come with the package.

    Args:
      source: the workdir of a training run, a file that `flax-heads export --to file`
        wrote, or "bundled"; `RUN@5000` and `RUN@best` are checkpoints of a run.
      step: of a run: which checkpoint, "best" by held-out L1; by default its newest.

    Raises:
      InputError: no checkpoint there, or a damaged file.
    """
    source = source or model_file.BUNDLED
    step, values, loaded = model_file.load_networks(source, step)
    config = recipe.from_json(values)
    params = loaded["ema"]
    # The saved vectors are the live parameters'; the averages need their own.
    vectors = jax.jit(spectral.refine)(params, loaded["generator_vectors"])
    return MetaModel(
        config=config,
        step=step,
        networks=recipe.networks(config),
        params=params,
        vectors=vectors,
        discriminator=loaded["discriminator"],
        discriminator_vectors=loaded["discriminator_vectors"],
        source=str(source),
    )


_fold = jax.jit(spectral.fold)


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
      num_iterations: optimiser updates, exactly so many; by default the rule of the
        model's config (`early_stopping.Rule`). 0 is the feed-forward variant: psi is
        P e, and nothing is trained.
      seed: of the order in which the photos are visited, and of random starts.
      on_progress: called with the iterations done and the last metrics.

    Returns:
      the talking head, spectral norm folded into its weights. Its history says how
        many iterations there were, and what the checks found.
    """
    rule = model.rule(num_iterations)
    rasters = draw_rasters(landmarks, model.size, model.style)
    state = model.compiled_start(
        *model.learned, photos, rasters, key=jax.random.key(seed)
    )
    learned = learn(
        # The feed-forward model needs no loss, nor the files of its networks.
        model.compiled_advance if rule.num_iterations else None,
        model.check,
        state,
        choose_pictures(model, photos, landmarks, rule, seed),
        rule,
        seed=seed,
        on_progress=on_progress,
    )
    folded = jax.device_get(_fold(learned.best.ema, learned.best.vectors))
    history = tuning_history(model, rule, seed) | outcome(rule, learned)
    return as_head(model, folded, photos, landmarks, history)


def choose_pictures(
    model: MetaModel, photos: np.ndarray, landmarks: np.ndarray, rule: Rule, seed: int
) -> Pictures:
    """What a person is trained and, if the rule asks for it, checked on.

    Warped pictures are checked on other warped pictures: training is the same with and
    without checks. Where there are none, one photo of three or more is kept aside from
    training (though not from the embedding). Two photos are trained on unchecked.

    The numbers of pictures depend on T, the config and the rule alone.
    """
    count = model.config.fine_tune.augmentations if rule.num_iterations else 0
    aside = photos[:0], landmarks[:0]
    if rule.checks and count:
        aside = augment_held_out(photos, landmarks, _WARPS_TO_CHECK, seed)
    elif rule.checks and len(photos) >= _PHOTOS_TO_SPARE:
        one = np.arange(len(photos)) == seed % len(photos)
        aside = photos[one], landmarks[one]
        photos, landmarks = photos[~one], landmarks[~one]
    pictures, points = augment_all(photos, landmarks, count, seed)
    rasters, aside_rasters = (
        draw_rasters(p, model.size, model.style) for p in (points, aside[1])
    )
    return Pictures(pictures, rasters, aside[0], aside_rasters)


def as_head(
    model: MetaModel,
    folded: Any,
    photos: np.ndarray,
    landmarks: np.ndarray,
    history: dict[str, Any],
) -> TalkingHead:
    """A person's numbers, from `spectral.fold`, with all that drawing them needs."""
    config = model.config
    return TalkingHead(
        generator=config.model.generator.to_dict() | {"dtype": config.model.dtype},
        params=folded["generator"],
        psi=folded["psi"],
        size=model.size,
        style=model.style,
        landmarks=np.asarray(landmarks, np.float32),
        photos=photos,
        history=history | {"photos": len(photos)},
    )


def tuning_history(model: MetaModel, rule: Rule, seed: int) -> dict[str, Any]:
    """What was asked for: two heads of one person that agree here are the same head."""
    return {
        "model": model.source,
        "model_step": model.step,
        "dtype": model.config.model.dtype,
        **rule.asked(),
        "seed": seed,
    }

"""From a config to the values that networks, losses and steps are made of.

The programs call this; nothing below them ever sees a config.
"""

from __future__ import annotations

import json
import os
import pathlib
from typing import Any

import jax
from jax.tree_util import Partial
from ml_collections import ConfigDict

from configs import common
from data_pipeline.errors import InputError
from data_pipeline.raster import RASTER_VERSION, RasterStyle
from flax_heads import face_id, integrity
from flax_heads import perceptual as vgg
from flax_heads.console import log
from flax_heads.meta_learning import make_meta_step
from flax_heads.objectives import LossWeights, PerceptualNetwork
from flax_heads.state import Adam, Networks, TrainState, init_state, make_networks

# A folder with the weights of the content loss's networks on this machine.
_WEIGHTS_FOLDER = "FLAX_HEADS_WEIGHTS"

_AT_LEAST_ONE = (
    "size",
    "batch_size",
    "num_support",
    "accumulate",
    "log_every_steps",
    "eval_every_steps",
    "checkpoint_every_steps",
    "keep_checkpoints",
    "max_non_finite_steps",
    "optimizer.discriminator_updates",
)
_AT_LEAST_ZERO = ("seed", "num_train_steps")
_OF_FINE_TUNING = {
    "fine_tune.num_iterations": 0,
    "fine_tune.batch_size": 1,
    "fine_tune.check_every": 0,
    "fine_tune.patience": 1,
}
# (network, field): after which of its blocks attention comes.
_ATTENTIONS = (
    ("embedder", "attention_after"),
    ("generator", "attention_after"),
    ("generator", "up_attention_after"),
    ("discriminator", "attention_after"),
)


def check(config: ConfigDict) -> None:
    """Looks at what would fail late, or oddly, or not at all.

    Raises:
      InputError: a number that is too small, an unknown type, rasters of a version that
        is not drawn here, or frames whose side the networks cannot halve as often as
        they do.
    """
    _check_least(config, dict.fromkeys(_AT_LEAST_ONE, 1))
    _check_least(config, dict.fromkeys(_AT_LEAST_ZERO, 0))
    check_fine_tuning(config)
    _check_model(config.model)
    if config.raster.version != RASTER_VERSION:
        raise InputError(
            f"config.raster.version is {config.raster.version}: this code draws "
            f"version {RASTER_VERSION}",
            "config",
        )
    if config.data.kind == "synthetic":
        least = {"num_videos": 1, "frames_per_video": config.num_support + 1}
        for name, number in least.items():
            if config.data[name] < number:
                raise InputError(
                    f"config.data.{name} is {config.data[name]}: expected at least "
                    f"{number} of rendered people",
                    "config",
                )
    channels = (config.model[n].channels for n in ("embedder", "discriminator"))
    halvings = max(map(len, (*channels, config.model.generator.channels)))
    if config.size % 2**halvings:
        raise InputError(
            f"config.size is {config.size}: the networks halve it {halvings} times, "
            f"choose a multiple of {2**halvings}",
            "config",
        )


def check_fine_tuning(config: ConfigDict) -> None:
    """Raises InputError where a number of `fine_tune` is none, or too small."""
    _check_least(config, _OF_FINE_TUNING)


def _check_least(config, least):
    for field, number in least.items():
        value = config
        for part in field.split("."):
            value = value[part]
        if value is None or value < number:
            raise InputError(
                f"config.{field} is {value}: expected at least {number}", "config"
            )


def _check_model(model):
    if model.dtype not in ("float32", "bfloat16"):
        raise InputError(
            f"config.model.dtype is {model.dtype!r}: expected float32 or bfloat16",
            "config",
        )
    for network, field in _ATTENTIONS:
        blocks, after = len(model[network].channels), model[network][field]
        if not blocks:
            raise InputError(
                f"config.model.{network}.channels is empty: expected the width of each "
                "block",
                "config",
            )
        if after is not None and not 1 <= after <= blocks:
            log.warning(
                "config.model.%s.%s is %s, of %d blocks: no attention",
                network,
                field,
                after,
                blocks,
            )


def networks(config: ConfigDict) -> Networks:
    """The modules of a config.

    Raises:
      InputError: fields that do not fit each other.
    """
    try:
        return make_networks(**config.model.to_dict())
    except (TypeError, ValueError) as error:
        raise InputError(f"config.model: {error}", reason="config") from error


def adams(config: ConfigDict, section: str = "optimizer") -> tuple[Adam, Adam]:
    """(generator's, discriminator's) optimisers; `section` may be "fine_tune"."""
    shared = {"b2": config.optimizer.b2, "eps": config.optimizer.eps}
    rates = config[section]
    return (
        Adam(rates.generator_learning_rate, config.optimizer.generator_b1, **shared),
        Adam(rates.discriminator_learning_rate, b1=0.0, **shared),
    )


def loss_weights(config: ConfigDict) -> LossWeights:
    return LossWeights(**config.loss.to_dict())


def perceptual(config: ConfigDict) -> list[PerceptualNetwork]:
    """The content loss's networks whose weight is not zero.

    Raises:
      InputError: no file for a VGG network whose weight is not zero, or a wrong one.
    """
    chosen = []
    for name, weight in config.perceptual.items():
        if weight:
            apply, variables = _PERCEPTUAL[name](config)
            chosen.append(PerceptualNetwork(name, weight, apply, variables))
    return chosen


def _load_vgg(name: str, config: ConfigDict):
    load = {"vgg19": vgg.load_vgg19, "vggface": vgg.load_vggface}[name]
    path, source = config[name].path, config[name].source
    if not path:
        raise InputError(
            f"perceptual.{name} is {config.perceptual[name]:g}, but no file of its "
            f"weights is named: give --config.{name}.path=FILE (README, 'VGG weights'), "
            f"or leave it out by --config.perceptual.{name}=0",
            reason="missing_weights",
        )
    return vgg.as_perceptual(load(_on_this_machine(name, path), source))


def _on_this_machine(name, path):
    """Where the config says, or a file of that name in the folder `_WEIGHTS_FOLDER`."""
    folder = os.environ.get(_WEIGHTS_FOLDER)
    places = [pathlib.Path(path)]
    if folder:
        places.append(pathlib.Path(folder) / places[0].name)
    for place in places:
        if os.path.exists(place):  # unlike pathlib's, False where one may not look
            return place
    raise InputError(
        f"{' and '.join(map(str, places))}: no such file; correct --config.{name}.path, or "
        f"for a trained model set {_WEIGHTS_FOLDER} to a folder that holds "
        f"{places[0].name} (where to fetch it: docs/files.md)",
        reason="missing_weights",
    )


_PERCEPTUAL = {
    "vgg19": lambda config: _load_vgg("vgg19", config),
    "vggface": lambda config: _load_vgg("vggface", config),
    "face_id": lambda _: face_id.as_perceptual(face_id.load_weights()),
}


def new_state(config: ConfigDict, num_videos: int) -> TrainState:
    """A fresh state for `num_videos` training videos; pure, so call it under `jit`."""
    generator_adam, discriminator_adam = adams(config)
    return init_state(
        networks(config),
        jax.random.key(config.seed),
        size=config.size,
        num_videos=num_videos,
        generator_adam=generator_adam,
        discriminator_adam=discriminator_adam,
    )


def meta_step(config: ConfigDict) -> Partial:
    """The meta-training step of a config, not compiled."""
    return make_meta_step(
        networks(config),
        *adams(config),
        loss_weights(config),
        perceptual(config),
        discriminator_updates=config.optimizer.discriminator_updates,
        ema_decay=config.optimizer.ema_decay,
        accumulate=config.accumulate,
    )


def raster_style(config: ConfigDict) -> RasterStyle:
    return RasterStyle(**config.raster.to_dict())


def as_json(config: ConfigDict) -> dict[str, Any]:
    """The resolved config as plain JSON values (tuples become lists)."""
    return json.loads(config.to_json_best_effort())


def from_json(values: dict[str, Any]) -> ConfigDict:
    """A config as it was saved; fields it did not know yet have their defaults."""
    config = common.paper()
    config.update(values)
    return config


def other_meaning(saved: dict[str, Any], config: ConfigDict) -> list[str]:
    """Lines for the fields in which weights of a saved config mean something else here."""
    lines = []
    for section in ("model", "raster"):
        before, now = (as_json(c)[section] for c in (from_json(saved), config))
        for neutral in ("dtype", "remat"):
            before.pop(neutral, None), now.pop(neutral, None)
        lines += integrity.differences(before, now, f"{section}.")
    return lines


def content_terms(config: ConfigDict) -> str:
    """One line for the log: what the content loss is made of."""
    terms = [f"pixel pyramid x {config.loss.pixel:g}"] if config.loss.pixel else []
    terms += [f"{name} x {w:g}" for name, w in config.perceptual.items() if w]
    return " + ".join(terms) or "nothing (all weights are 0)"

"""From a config to the values that networks, losses and steps are made of.

The programs call this; nothing below them ever sees a config.
"""

from __future__ import annotations

import json
from typing import Any

from ml_collections import ConfigDict

from data_pipeline.raster import RasterStyle
from flax_heads import face_id
from flax_heads.objectives import LossWeights, PerceptualNetwork
from flax_heads.state import Adam, Networks, make_networks


def networks(config: ConfigDict) -> Networks:
    return make_networks(**config.model.to_dict())


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
    """The content loss's networks whose weight is not zero."""
    chosen = []
    if config.perceptual.face_id:
        weight = config.perceptual.face_id
        apply, variables = face_id.as_perceptual(face_id.load_weights())
        chosen.append(PerceptualNetwork("face_id", weight, apply, variables))
    return chosen


def raster_style(config: ConfigDict) -> RasterStyle:
    return RasterStyle(**config.raster.to_dict())


def as_json(config: ConfigDict) -> dict[str, Any]:
    """The resolved config as plain JSON values (tuples become lists)."""
    return json.loads(config.to_json_best_effort())


def from_json(values: dict[str, Any]) -> ConfigDict:
    return ConfigDict(values)


def content_terms(config: ConfigDict) -> str:
    """One line for the log: what the content loss is made of."""
    terms = [f"pixel pyramid x {config.loss.pixel:g}"] if config.loss.pixel else []
    terms += [f"{name} x {w:g}" for name, w in config.perceptual.items() if w]
    return " + ".join(terms) or "nothing (all weights are 0)"

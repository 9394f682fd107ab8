"""The check while training: people never trained on, feed-forward, always the same."""

from __future__ import annotations

from collections.abc import Callable

import jax
import numpy as np
from ml_collections import ConfigDict

from data_pipeline.errors import InputError
from flax_heads.figures import contact_sheet
from flax_heads.losses import mean_l1
from flax_heads.meta_learning import embed, generate, project
from flax_heads.objectives import to_unit_range
from flax_heads.spectral import fold
from flax_heads.state import Networks, TrainState
from flax_heads.training_data import Episodes

_PEOPLE = 32
_SHEET_ROWS = 6


def make_held_out_check(
    networks: Networks, held_out: Episodes, config: ConfigDict
) -> Callable[[TrainState], tuple[dict[str, float], np.ndarray]]:
    """Builds state -> (metrics, contact sheet uint8 [H, W, 3]) on fixed episodes.

    Raises:
      InputError: nobody was held out.
    """
    people = min(held_out.num_videos, _PEOPLE)
    if not people:
        raise InputError(
            f"{config.data.path or config.data.kind}: no held-out people; prepare with a "
            "test split or raise data.held_out; of one person nobody can be held out",
            reason="no_held_out",
        )
    batch = next(held_out.batches(0, 0, people, config.num_support))
    # As many at once as a device holds in a step: what trains must not fail to look.
    fit = config.batch_size // (jax.device_count() * config.accumulate)
    at_once = max(
        n for n in range(1, people + 1) if people % n == 0 and n <= max(fit, 1)
    )

    @jax.jit
    def feed_forward(params, vectors, batch):
        # The vectors are the live parameters'; folding makes them the average's.
        params = fold(params, vectors)
        images = {k: to_unit_range(v) for k, v in batch.items() if k != "video_index"}
        embedding = embed(
            networks, params, images["support_frames"], images["support_rasters"]
        )
        psi = project(networks, params, embedding)
        fake = generate(networks, params, images["target_raster"], psi)
        return fake, mean_l1(fake, images["target_frame"]) / 2

    def check(state):
        drawn = []
        for i in range(0, people, at_once):
            part = {name: values[i : i + at_once] for name, values in batch.items()}
            drawn.append(feed_forward(state.ema, state.generator.vectors, part))
        fake = np.concatenate([np.asarray(frames) for frames, _ in drawn])
        l1 = np.mean([float(l1) for _, l1 in drawn])  # of equally many each
        rows = slice(0, _SHEET_ROWS)
        sheet = contact_sheet(
            {
                "source": batch["support_frames"][rows, 0],
                "raster": batch["target_raster"][rows],
                "feed-forward": _to_uint8(fake[rows]),
                "truth": batch["target_frame"][rows],
            }
        )
        return {"held_out/l1": float(l1)}, sheet

    return check


def _to_uint8(frames: np.ndarray) -> np.ndarray:
    """Float [-1, 1] -> uint8 [0, 255]."""
    return np.clip((frames + 1) * 127.5 + 0.5, 0, 255).astype(np.uint8)

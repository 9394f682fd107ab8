"""Opens what a config trains on, and the people it keeps aside."""

from __future__ import annotations

import functools
import pathlib
from collections.abc import Iterator
from typing import Protocol

import numpy as np
from ml_collections import ConfigDict

from data_pipeline.archive import load_archive, render_archive
from data_pipeline.errors import InputError
from flax_heads import recipe
from flax_heads.console import progress

# Synthetic people kept aside have seeds that no training set reaches.
HELD_OUT_SEED = 1_000_000
_HELD_OUT_PEOPLE = 16


class Episodes(Protocol):
    """What the training loop needs of a data set: `Archive` and `Records` have it."""

    num_videos: int
    videos: list[str]  # their names; a batch's `video_index` is a place in this list
    size: int
    style: object

    def batches(
        self,
        seed: int,
        start_step: int,
        batch_size: int,
        num_support: int,
        process_index: int = 0,
        process_count: int = 1,
        identity_augmentation: float = 0.0,
    ) -> Iterator[dict[str, np.ndarray]]: ...


def open_episodes(
    config: ConfigDict, workdir: str | pathlib.Path
) -> tuple[Episodes, Episodes]:
    """(training people, held-out people), disjoint by identity.

    Raises:
      InputError: the data is missing, of another size, or drawn in another style.
    """
    kind = config.data.kind
    if kind in ("records", "archive") and not config.data.path:
        raise InputError(
            f"config.data.path is empty; add --config.data.path=… ({kind} to train on)",
            reason="config",
        )
    if kind == "synthetic":
        train, held_out = _synthetic(config, pathlib.Path(workdir))
    elif kind == "archive":
        train, held_out = load_archive(config.data.path).split_by_identity(
            config.data.held_out
        )
    elif kind == "records":
        from data_pipeline.input_pipeline import Records  # imports TensorFlow

        train, held_out = (
            Records(config.data.path, split, max_damaged=config.data.max_damaged)
            for split in ("train", "test")
        )
    else:
        raise InputError(
            f"data.kind {kind!r}: expected 'records', 'archive' or 'synthetic'",
            reason="config",
        )
    for name, ours, theirs in (
        ("size", config.size, train.size),
        ("raster", recipe.raster_style(config), train.style),
    ):
        if ours != theirs:
            raise InputError(
                f"{config.data.path}: prepared with {name} {theirs}, the config says "
                f"{ours}; prepare it again or change the config",
                reason="other_data",
            )
    return train, held_out


def _synthetic(config, workdir):
    """Renders the synthetic people once; a resumed run reads them back."""
    path = workdir / "synthetic.npz"
    render = functools.partial(
        render_archive,
        frames_per_video=config.data.frames_per_video,
        size=config.size,
        style=recipe.raster_style(config),
    )
    if not path.exists():
        with progress("rendering people", config.data.num_videos) as show:
            render(config.data.num_videos, seed=config.seed, on_progress=show).save(
                path
            )
    # From the file, not from memory: JPEG changes the frames, and a resumed run must
    # see the same ones.
    train = load_archive(path)
    held_out = render(_HELD_OUT_PEOPLE, seed=config.seed + HELD_OUT_SEED)
    return train, held_out

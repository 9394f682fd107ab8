"""A step that went wrong, in one file, to be run again: `python -m flax_heads.replay FILE`.

With JAX_DEBUG_NANS=1 before it, JAX names the operation that was the first to go wrong.
"""

from __future__ import annotations

import json
import pathlib
import sys
import zipfile
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from data_pipeline import packing
from data_pipeline.errors import InputError
from flax_heads import recipe
from flax_heads.meta_learning import Batch
from flax_heads.state import TrainState

_FORMAT = 1


def save(
    path: str | pathlib.Path,
    config: dict,
    state: TrainState,
    batch: Batch,
    videos: list[str],
) -> list[str]:
    """Writes what `run` needs: all of the state but W, of which the batch's rows.

    Every process must call it; the first one writes.

    Args:
      path: of the `.npz`.
      config: resolved, as JSON values.
      state: as it was before the step.
      batch: of the step.
      videos: names of all videos.

    Returns:
      names of the batch's videos.
    """
    batch = jax.tree.map(_gathered, batch)
    used, places = np.unique(batch["video_index"], return_inverse=True)
    rows = jax.tree.map(lambda w: w[used], state.video_embeddings)
    batch["video_index"] = places.astype(np.int32)
    names = [videos[i] for i in used]
    # Of all processes, though one writes: what is spread over them is gathered by all.
    leaves = [
        _gathered(x) for x in jax.tree.leaves(state.replace(video_embeddings=rows))
    ]
    header = {"format": _FORMAT, "config": config, "videos": names}
    if jax.process_index() == 0:
        packing.save_npz(
            path,
            header=np.frombuffer(json.dumps(header).encode(), np.uint8),
            **{f"batch/{name}": value for name, value in batch.items()},
            **{f"state/{i}": leaf for i, leaf in enumerate(leaves)},
        )
    return names


def run(path: str | pathlib.Path) -> dict[str, float]:
    """Runs the step once more, on one device; returns its metrics.

    Raises:
      InputError: no such file, or not one that `save` wrote.
    """
    config, state, batch = _load(pathlib.Path(path))
    _, metrics = jax.jit(recipe.meta_step(config))(state, batch)
    return {name: float(value) for name, value in metrics.items()}


def _load(path):
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as stored:
            header = json.loads(stored["header"].tobytes())
            if header["format"] != _FORMAT:
                raise ValueError(
                    f"format {header['format']}, this code reads {_FORMAT}"
                )
            arrays = {name: stored[name] for name in stored.files}
        config = recipe.from_json(header["config"])
        state = jax.tree.structure(
            jax.eval_shape(lambda: recipe.new_state(config, len(header["videos"])))
        )
        leaves = [arrays[f"state/{i}"] for i in range(state.num_leaves)]
        batch = {
            name.removeprefix("batch/"): value
            for name, value in arrays.items()
            if name.startswith("batch/")
        }
        return config, jax.tree.unflatten(state, leaves), batch
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise InputError(
            f"{path}: not a step to replay ({error})", "unreadable"
        ) from error


def _gathered(leaf: Any) -> np.ndarray:
    spread = isinstance(leaf, jax.Array) and not leaf.is_fully_replicated
    if spread and not leaf.is_fully_addressable:
        return multihost_utils.process_allgather(leaf, tiled=True)
    return np.asarray(leaf)


def main(argv: list[str]) -> int:
    try:
        (path,) = argv
        metrics = run(path)
    except ValueError as error:
        print(
            f"replay: {error}; usage: python -m flax_heads.replay FILE", file=sys.stderr
        )
        return 2
    for name, value in metrics.items():
        print(f"{name:<32} {value:g}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

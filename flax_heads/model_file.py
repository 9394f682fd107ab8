"""A meta-learned model as one small file: half precision, no W, no optimiser.

It is what a new person needs of a training run: an `.npz` of plain arrays with the
run's config, which executes nothing when it is loaded. One comes with the package.
"""

from __future__ import annotations

import json
import os
import pathlib
from typing import Any, Literal

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from data_pipeline import packing, safe_files
from data_pipeline.errors import InputError
from data_pipeline.images import one_line
from flax_heads import checkpoints, recipe

BUNDLED = "bundled"  # the name of the model that comes with the package
BUNDLED_FILE = pathlib.Path(__file__).with_name("bundled_model") / "weights.npz"
MAX_BYTES = 2**32  # of the arrays
_FORMAT = 1
_PARTS = ("ema", "generator_vectors", "discriminator", "discriminator_vectors")


def load_networks(
    source: str | os.PathLike = BUNDLED, step: int | Literal["best"] | None = None
) -> tuple[int, dict, dict[str, Any]]:
    """What a new person needs, as `checkpoints.load_for_fine_tuning` returns it.

    Args:
      source: the workdir of a run, a file by `write`, or "bundled". `RUN@5000` and
        `RUN@best` name a checkpoint of a run as well.
      step: of a run: which checkpoint; by default its newest.

    Raises:
      InputError: no checkpoint there, or a damaged file.
    """
    if source == BUNDLED:
        return read(BUNDLED_FILE)
    if pathlib.Path(source).is_file():
        return read(source)
    run, named = split_source(source) if step is None else (source, step)
    return checkpoints.load_for_fine_tuning(run, named)


def split_source(
    source: str | os.PathLike,
) -> tuple[str | os.PathLike, int | Literal["best"] | None]:
    """`RUN@5000` -> (RUN, 5000), `RUN@best` -> (RUN, "best"), all else -> (it, None)."""
    run, at, wanted = str(source).rpartition("@")
    names_step = at and (wanted == "best" or wanted.isdecimal())
    if not names_step or pathlib.Path(source).exists():
        return source, None
    return run, wanted if wanted == "best" else int(wanted)


def write(
    path: str | os.PathLike, step: int, config: dict, loaded: dict[str, Any]
) -> None:
    """Writes what `load_networks` returned, arrays as float16.

    Which runs it was made from, `init_from` and `resume`, stays behind: folders of one
    machine that nobody else has.

    Raises:
      InputError: a number is too large for half precision, or not finite.
    """
    with np.errstate(over="ignore"):  # refused below, by name
        arrays = {
            f"{part}:{name}": np.asarray(leaf).astype(np.float16)
            for part in _PARTS
            # Not "/": the singular vectors' own names are paths of kernels.
            for name, leaf in flatten_dict(loaded[part], sep=":").items()
        }
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise InputError(
                f"{path}: {name} has numbers that are not finite in half precision",
                reason="not_finite",
            )
    config = config | {"init_from": "", "resume": ""}
    header = {"format": _FORMAT, "step": step, "config": config}
    header = np.frombuffer(json.dumps(header).encode(), np.uint8)
    packing.save_npz(path, header=header, **arrays)


def read(
    path: str | os.PathLike, max_bytes: int = MAX_BYTES
) -> tuple[int, dict, dict[str, Any]]:
    """The inverse of `write`, arrays as float32.

    Raises:
      InputError: no such file, not a model, a damaged one, or of another format.
    """
    try:
        stored = safe_files.read_npz(path, max_bytes)
        header = safe_files.parse_json(stored.pop("header").tobytes())
        if header["format"] != _FORMAT:
            raise ValueError(f"format {header['format']}, this code reads {_FORMAT}")
        flat = {
            tuple(name.split(":")): array.astype(np.float32)
            for name, array in stored.items()
        }
        loaded = unflatten_dict(flat)
        _check(header["config"], loaded)
        return int(header["step"]), header["config"], loaded
    # Values from a file fail wherever they are first used, in Flax and JAX, too.
    except Exception as error:
        raise InputError(
            f"{path}: not a readable model ({one_line(error)}); expected the --workdir "
            "of a training run, or what `flax-heads export --to file` wrote",
            reason="damaged",
        ) from error


def _check(config: dict, loaded: dict[str, Any]) -> None:
    """Raises unless the arrays are finite and those of the config's networks."""
    if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(loaded)):
        raise ValueError("numbers that are not finite")
    state = jax.eval_shape(lambda: recipe.new_state(recipe.from_json(config), 1))
    expected = {
        "ema": state.ema,
        "generator_vectors": state.generator.vectors,
        "discriminator": state.discriminator.params,
        "discriminator_vectors": state.discriminator.vectors,
    }
    shapes, others = (jax.tree.map(np.shape, tree) for tree in (expected, loaded))
    if shapes != others:
        raise ValueError("its arrays are not those of its config's networks")

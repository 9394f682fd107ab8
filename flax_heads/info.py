"""What a config is, before any device time is spent on it: parameters, FLOPs, memory."""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
from ml_collections import ConfigDict

from data_pipeline.archive import load_archive
from data_pipeline.errors import InputError
from flax_heads import integrity, parallel, recipe
from flax_heads.console import log

_DEFAULT_VIDEOS = 1_000  # where the data is not at hand


def count_flops(function: Callable, *arguments: Any) -> float | None:
    """FLOPs of a program as XLA counts them before it optimises.

    Args:
      function: what `jax.jit` takes, or has made.
      arguments: arrays, or their shapes.

    Returns:
      the number, or None without JAX's CPU backend, the only one that counts without
      compiling.
    """
    try:
        cpu = jax.devices("cpu")[0]
    except RuntimeError:  # JAX_PLATFORMS names others only
        return None
    arguments = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), arguments
    )
    with jax.default_device(cpu):
        cost = jax.jit(function).lower(*arguments).cost_analysis()
    return cost["flops"] if cost else None


def count_step_flops(config: ConfigDict, state: Any, batch: Any) -> float | None:
    """FLOPs that a meta-training step of a config cannot do without.

    What `model.remat` computes twice counts once, and the whole batch does whatever
    `accumulate` says: XLA counts a loop's body once. (Of attention to more than 512 places
    it so counts 512: at the paper's size, 2 % of the step are missing.)

    Args, Returns: as `count_flops`; `state` and `batch` may be shapes.
    """
    config = copy.deepcopy(config)
    with config.unlocked():
        config.accumulate, config.model.remat = 1, False
    return count_flops(recipe.meta_step(config), state, batch)


def count_parameters(params) -> int:
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))


def describe(config: ConfigDict, num_videos: int | None = None) -> str:
    """A table of parameters, FLOPs of a step, memory, data and devices.

    Nothing is computed but shapes and the program's cost as XLA states it before it
    optimises; activations are not in the memory figures.
    """
    recipe.check(config)
    videos = num_videos or config.data.num_videos or _count_videos(config)
    assumed = "" if videos else " (assumed: give --num-videos, or the data)"
    videos = videos or _DEFAULT_VIDEOS
    networks = recipe.networks(config)
    state = jax.eval_shape(functools.partial(recipe.new_state, config, videos))
    b, k, size = config.batch_size, config.num_support, config.size
    batch = parallel.abstract_batch(b, k, size)
    try:
        flops = count_step_flops(config, state, batch)
    except InputError as error:  # no file of VGG's weights here
        log.warning("%s", error)
        flops = None
    networks_bytes = _bytes((state.generator, state.discriminator, state.ema))
    rows = [(name, _count(params)) for name, params in state.generator.params.items()]
    rows += [
        ("discriminator", _count(state.discriminator.params)),
        ("psi (per person)", f"{networks.generator.psi_size:,}"),
        ("W, video embeddings", _count(state.video_embeddings.values)),
        ("FLOPs of a step", f"{flops / 1e12:.3f} T" if flops else "not counted"),
        (
            "FLOPs of an episode",
            f"{flops / b / 1e12:.3f} T" if flops else "not counted",
        ),
        ("state, networks", f"{networks_bytes / 2**20:,.0f} MiB on each device"),
        (
            "state, W",
            f"{_bytes(state.video_embeddings) / 2**20:,.0f} MiB over all devices",
        ),
        ("batch", f"{b} x (K={k} + 1) at {size} px, {_bytes(batch) / 2**20:,.1f} MiB"),
        ("videos (M)", f"{videos:,}{assumed}"),
        ("steps", f"{config.num_train_steps:,}"),
        ("epochs", f"{config.num_train_steps * b / videos:,.1f}"),
        ("content loss", recipe.content_terms(config)),
        ("devices", f"{jax.device_count()} x {jax.devices()[0].device_kind}"),
    ]
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)


def log_run(config, data, held_out, mesh, state, step_fn):
    """What is about to run, in the first lines of its log."""

    log.info(
        "config: batch %d of K=%d at %d px, steps %d to %d, seed %d; content loss: %s",
        config.batch_size,
        config.num_support,
        config.size,
        int(state.step),
        config.num_train_steps,
        config.seed,
        recipe.content_terms(config),
    )
    log.info(
        "data: %s: %d videos to train on, %d of other people held out",
        " ".join(filter(None, (config.data.kind, config.data.path))),
        data.num_videos,
        held_out.num_videos,
    )
    parts = state.generator.params | {"discriminator": state.discriminator.params}
    log.info(
        "parameters: %s; W %s",
        ", ".join(f"{name} {count_parameters(p):,}" for name, p in parts.items()),
        " x ".join(str(n) for n in state.video_embeddings.values.shape),
    )
    log.info(
        "devices: %d x %s in %d process(es); on each about %.0f MiB of state and %.0f MiB "
        "of workspace",
        mesh.size,
        jax.devices()[0].device_kind,
        jax.process_count(),
        (
            _bytes(state.replace(video_embeddings=()))
            + _shard_bytes(state.video_embeddings)
        )
        / 2**20,
        step_fn.func.memory_analysis().temp_size_in_bytes / 2**20,
    )
    code = ", ".join(f"{name} {v}" for name, v in integrity.code_version().items())
    log.info("code: %s", code)


def _count(params) -> str:
    return f"{count_parameters(params):,}"


def _bytes(tree) -> int:
    return sum(
        math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree)
    )


def _shard_bytes(tree) -> int:
    """What one device holds of arrays."""
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(tree)
    )


def _count_videos(config) -> int | None:
    """None where no data is named."""
    if config.data.kind == "records" and config.data.path:
        from data_pipeline.input_pipeline import Records  # imports TensorFlow

        return Records(config.data.path, "train").num_videos
    if config.data.kind == "archive" and config.data.path:
        people = load_archive(config.data.path)
        return people.split_by_identity(config.data.held_out)[0].num_videos
    return None

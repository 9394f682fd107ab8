"""The one file that knows Orbax: whole training states, and models read out of them."""

from __future__ import annotations

import json
import pathlib
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint import checkpoint_managers

from data_pipeline.errors import InputError
from flax_heads.state import TrainState

# Fields in which a run may differ from the checkpoint it continues from. Every other
# field shapes the parameters, the data order or the meaning of the weights.
_FREE_FIELDS = (
    "num_train_steps",
    "log_every_steps",
    "checkpoint_every_steps",
    "eval_every_steps",
    "keep_checkpoints",
    "resume",
    "init_from",
    "fine_tune",
)


def open_manager(workdir: str | pathlib.Path, keep: int = 2) -> ocp.CheckpointManager:
    """Opens `workdir`/checkpoints for writing; saves run in the background."""
    folder = pathlib.Path(workdir).resolve() / "checkpoints"
    policy = checkpoint_managers.LatestN(keep)
    return ocp.CheckpointManager(
        folder,
        options=ocp.CheckpointManagerOptions(
            preservation_policy=policy, cleanup_tmp_directories=True, create=True
        ),
    )


def save(
    manager: ocp.CheckpointManager, step: int, state: TrainState, config: dict
) -> None:
    """Starts saving the state beside the resolved config; a repeated step is skipped."""
    if step in manager.all_steps():
        return
    manager.save(
        step,
        args=ocp.args.Composite(
            state=ocp.args.StandardSave(state), config=ocp.args.JsonSave(config)
        ),
    )


def restore(
    manager: ocp.CheckpointManager, step: int, target: TrainState, config: dict
) -> TrainState:
    """Restores a state into the shapes and shardings of `target` (abstract).

    Raises:
      InputError: the checkpoint was made by a config that differs in fields which
        change the parameters, the data or the meaning of the weights.
    """
    saved = manager.restore(
        step, args=ocp.args.Composite(config=ocp.args.JsonRestore())
    )["config"]
    differences = config_differences(saved, config)
    if differences:
        raise InputError(
            f"{manager.directory}: step {step} was made by another config "
            f"({'; '.join(differences)}); use a new --workdir, or the old settings",
            reason="other_config",
        )
    restored = manager.restore(
        step, args=ocp.args.Composite(state=ocp.args.StandardRestore(target))
    )
    return restored["state"]


def restore_from(
    workdir: str | pathlib.Path, target: TrainState, config: dict
) -> TrainState:
    """Restores the newest state of another run, which is only read: it may be alive.

    Raises:
      InputError: no checkpoint there, or as `restore`.
    """
    folder = pathlib.Path(workdir).resolve() / "checkpoints"
    if folder.is_dir():
        options = ocp.CheckpointManagerOptions(read_only=True)
        with ocp.CheckpointManager(folder, options=options) as manager:
            if (step := manager.latest_step()) is not None:
                return restore(manager, step, target, config)
    raise InputError(
        f"{workdir}: has no checkpoint to resume from; expected the --workdir of a "
        "training run",
        reason="no_checkpoint",
    )


def config_differences(saved: dict, config: dict, prefix: str = "") -> list[str]:
    """Lines `field: saved -> now` for every binding field in which two configs differ."""
    lines = []
    for name in sorted({*saved, *config}):
        if not prefix and name in _FREE_FIELDS:
            continue
        before, now = saved.get(name), config.get(name)
        if isinstance(before, dict) and isinstance(now, dict):
            lines += config_differences(before, now, f"{prefix}{name}.")
        elif json.dumps(before) != json.dumps(now):
            lines.append(f"{prefix}{name}: {before} -> {now}")
    return lines


def load_for_fine_tuning(
    workdir: str | pathlib.Path, step: int | None = None
) -> tuple[int, dict, dict[str, Any]]:
    """Reads what a new person needs, and never W or an optimiser state.

    Args:
      workdir: of a training run.
      step: which checkpoint; the newest by default.

    Returns:
      its step, its config, and numpy trees "ema", "generator_vectors",
      "discriminator", "discriminator_vectors".

    Raises:
      InputError: no checkpoint there.
    """
    folder = epath.Path(workdir).resolve() / "checkpoints"
    steps = ocp.utils.checkpoint_steps(folder) if folder.exists() else []
    if not steps or (step is not None and step not in steps):
        wanted = "checkpoint" if step is None else f"checkpoint {step}"
        raise InputError(
            f"{workdir}: has no {wanted}; expected the --workdir of a training run",
            reason="no_checkpoint",
        )
    step = max(steps) if step is None else step
    config = json.loads((folder / str(step) / "config" / "metadata").read_text())
    item = folder / str(step) / "state"
    with ocp.PyTreeCheckpointer() as checkpointer:
        tree = checkpointer.metadata(item).item_metadata.tree
        wanted = {
            "ema": tree["ema"],
            "generator": {"vectors": tree["generator"]["vectors"]},
            "discriminator": {
                name: tree["discriminator"][name] for name in ("params", "vectors")
            },
        }
        as_numpy = jax.tree.map(
            lambda _: ocp.RestoreArgs(restore_type=np.ndarray), wanted
        )
        loaded = checkpointer.restore(
            item,
            ocp.args.PyTreeRestore(wanted, restore_args=as_numpy, partial_restore=True),
        )
    return (
        step,
        config,
        {
            "ema": loaded["ema"],
            "generator_vectors": loaded["generator"]["vectors"],
            "discriminator": loaded["discriminator"]["params"],
            "discriminator_vectors": loaded["discriminator"]["vectors"],
        },
    )


def with_networks(state: TrainState, loaded: dict[str, Any], source: str) -> TrainState:
    """`state` with the networks of `load_for_fine_tuning`; W and moments stay fresh.

    Raises:
      InputError: the networks are of other shapes.
    """

    def put(old, new):
        return jax.device_put(np.asarray(new, old.dtype), old.sharding)

    def replace(old, new):
        shapes, others = jax.tree.map(np.shape, old), jax.tree.map(np.shape, new)
        if shapes != others:
            raise InputError(
                f"{source}: its networks have other shapes than this config's; use the "
                "same model fields, or start without init_from",
                reason="other_config",
            )
        return jax.tree.map(put, old, new)

    generator = state.generator.replace(
        params=replace(state.generator.params, loaded["ema"]),
        vectors=replace(state.generator.vectors, loaded["generator_vectors"]),
    )
    discriminator = state.discriminator.replace(
        params=replace(state.discriminator.params, loaded["discriminator"]),
        vectors=replace(state.discriminator.vectors, loaded["discriminator_vectors"]),
    )
    ema = replace(state.ema, loaded["ema"])
    return state.replace(generator=generator, discriminator=discriminator, ema=ema)

"""The one file that knows Orbax: whole training states, and models read out of them."""

from __future__ import annotations

import contextlib
import math
import pathlib
from collections.abc import Iterator
from typing import Any, Literal

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging as absl_logging
from orbax.checkpoint import checkpoint_managers, type_handlers

from data_pipeline.errors import InputError
from flax_heads import integrity, recipe, saved_steps
from flax_heads.console import log
from flax_heads.saved_steps import BEST_BY
from flax_heads.state import TrainState

# Fields in which a run may differ from the checkpoint it continues from. Every other
# field shapes the parameters, the data order or the meaning of the weights. Where the
# data lies is free: which videos it holds is compared (training_data.py).
_FREE_FIELDS = (
    "num_train_steps",
    "accumulate",
    "data.path",
    "data.max_damaged",
    "model.remat",
    "log_every_steps",
    "checkpoint_every_steps",
    "eval_every_steps",
    "keep_checkpoints",
    "max_non_finite_steps",
    "stall_timeout_seconds",
    "resume",
    "init_from",
    "fine_tune",
    "vgg19.path",
    "vggface.path",
)


@contextlib.contextmanager
def open_manager(
    workdir: str | pathlib.Path, keep: int = 2
) -> Iterator[ocp.CheckpointManager]:
    """Opens `workdir`/checkpoints for writing; saves run in the background.

    Kept are the last `keep` steps, and of the steps with a held-out L1 the best one.
    Leaving waits for the last save.

    Raises:
      InputError: a save failed, while leaving.
    """
    # Orbax tells of a failed save in hundreds of lines, and so do its threads later.
    absl_logging.set_verbosity(absl_logging.FATAL)
    folder = saved_steps.folder_of(workdir)
    saved_steps.set_aside_damaged_metrics(folder)
    last = checkpoint_managers.LatestN(keep)
    best = checkpoint_managers.BestN(
        get_metric_fn=lambda metrics: metrics[BEST_BY],
        reverse=True,
        n=1,
        keep_checkpoints_without_metrics=False,
    )
    manager = ocp.CheckpointManager(
        folder,
        item_handlers=_handlers(),
        options=ocp.CheckpointManagerOptions(
            preservation_policy=checkpoint_managers.AnyPreservationPolicy([last, best]),
            best_fn=lambda metrics: metrics[BEST_BY],  # without it none are written
            cleanup_tmp_directories=True,
            create=True,
        ),
    )
    try:
        yield manager
    except BaseException:
        with contextlib.suppress(Exception):  # the first error is the one to report
            manager.close()
        raise
    with _failure_in_one_line(manager):
        manager.close()


def _handlers() -> dict[str, ocp.CheckpointHandler]:
    """Writers of the items of a step.

    What all devices hold is written whole by one of them. Orbax's default has each write
    a slice, and compiles a program for every shape and slice at the first save.
    """
    arrays = type_handlers.create_type_handler_registry(
        (jax.Array, type_handlers.ArrayHandler(use_replica_parallel=False)),
        (np.ndarray, type_handlers.NumpyHandler()),
        (np.number, type_handlers.ScalarHandler()),
    )
    state = ocp.PyTreeCheckpointHandler(type_handler_registry=arrays)
    names = ("config", "code", "digests")
    return {"state": state} | {name: ocp.JsonCheckpointHandler() for name in names}


def save(
    manager: ocp.CheckpointManager,
    step: int,
    state: TrainState,
    config: dict,
    metrics: dict[str, float] | None = None,
) -> None:
    """Starts saving the state; a repeated step is skipped.

    Returns when the arrays are hashed and copied, not when they are written: measured
    0.04 s of hashing for 46 MB, 0.8 s for the 1.4 GB of the paper's model with W.

    Args:
      manager: from `open_manager`.
      step: the state's.
      state: to save; its buffers may be donated afterwards.
      config: resolved, as JSON values.
      metrics: of this very state, with "held_out/l1". A step without them is kept as
        one of the last, never as the best.

    Raises:
      InputError: this save, or the one before it, failed; older steps are intact.
    """
    if step in manager.all_steps():
        return
    if metrics is not None and not math.isfinite(metrics[BEST_BY]):
        metrics = None
    code = integrity.code_version()
    digests = integrity.digests(
        saved_steps.record(config, code, metrics) | {"state": state}
    )
    items = ocp.args.Composite(
        state=ocp.args.PyTreeSave(state),
        config=ocp.args.JsonSave(config),
        code=ocp.args.JsonSave(code),
        digests=ocp.args.JsonSave(digests),
    )
    with _failure_in_one_line(manager):
        manager.save(step, args=items, metrics=metrics)


def check(manager: ocp.CheckpointManager) -> None:
    """Raises InputError if a save failed in the background meanwhile."""
    with _failure_in_one_line(manager):
        manager.check_for_errors()


@contextlib.contextmanager
def _failure_in_one_line(manager: ocp.CheckpointManager) -> Iterator[None]:
    try:
        yield
    # A full disk is an OSError, a ValueError or a RuntimeError by who met it.
    except Exception as error:
        saved_steps.silence_late_threads()
        raise InputError(
            f"{manager.directory}: a checkpoint could not be saved "
            f"({saved_steps.reason(error)}); "
            f"{saved_steps.last_good(manager.directory.parent)}; "
            "make room and run again to resume",
            reason="save_failed",
        ) from error


def restore_newest(
    workdir: str | pathlib.Path,
    target: TrainState,
    config: dict,
    *,
    read_only: bool = False,
) -> TrainState | None:
    """The newest intact state of a run; None where there is no checkpoint.

    A damaged step that is newer than an intact one is named in a warning and, unless
    `read_only`, moved to `workdir`/damaged_checkpoints: its number will be used again.

    Args:
      workdir: of the run.
      target: abstract state with the shapes and shardings wanted.
      config: resolved, as JSON values.
      read_only: the run is another's and may be alive.

    Raises:
      InputError: every checkpoint is damaged, or the newest intact one was made by a
        config that differs in fields which change the parameters, the data or the
        meaning of the weights.
    """
    folder = saved_steps.folder_of(workdir)

    def read_state(step_folder, saved_config):
        _refuse_other_config(step_folder, saved_config, config)
        with ocp.StandardCheckpointer() as checkpointer:
            return checkpointer.restore(step_folder / "state", target)

    if not (steps := saved_steps.as_first_process(saved_steps.newest_first(folder))):
        return None
    step, _, state = saved_steps.read_newest(folder, steps, read_state)
    log.info("resuming from step %d of %s", step, folder)
    if not read_only:
        for damaged in steps[: steps.index(step)]:
            saved_steps.set_aside(folder, damaged)
    return state


def _refuse_other_config(step_folder: pathlib.Path, saved: dict, config: dict) -> None:
    """Raises InputError where binding fields differ; warns where only the code does."""
    by = ""
    if (step_folder / "code").exists():
        code = saved_steps.read_json(step_folder, "code")
        by = "; ".join(integrity.differences(code, integrity.code_version()))
    # As today's code reads them: with defaults for fields that are younger.
    both = (recipe.as_json(recipe.from_json(values)) for values in (saved, config))

    def binds(difference):
        field = difference.split(":")[0]
        return not {field, field.split(".")[0]} & set(_FREE_FIELDS)

    if differences := list(filter(binds, integrity.differences(*both))):
        raise InputError(
            f"{step_folder.parent}: step {step_folder.name} was made by another config "
            f"({'; '.join(differences)}){by and f' and by other code ({by})'}; use a "
            "new --workdir, or the old settings",
            reason="other_config",
        )
    if by:
        log.warning("%s was written by other code (%s)", step_folder, by)


def load_for_fine_tuning(
    workdir: str | pathlib.Path, step: int | Literal["best"] | None = None
) -> tuple[int, dict, dict[str, Any]]:
    """Reads what a new person needs, and never W or an optimiser state.

    Args:
      workdir: of a training run.
      step: which checkpoint; "best" is the one with the smallest held-out L1; by
        default the newest, or, where it is damaged, the one before it.

    Returns:
      its step, its config, and numpy trees "ema", "generator_vectors",
      "discriminator", "discriminator_vectors".

    Raises:
      InputError: no checkpoint there, or the one asked for (or every one) is damaged.
    """
    folder = saved_steps.folder_of(workdir)
    steps = saved_steps.newest_first(folder)
    if step is not None:
        number = saved_steps.best(folder) if step == "best" else step
        steps = [number] if number in steps else []
    if not (steps := saved_steps.as_first_process(steps)):
        wanted = "checkpoint" if step is None else f"checkpoint {step}"
        raise InputError(
            f"{workdir}: has no {wanted}; expected the --workdir of a training run",
            reason="no_checkpoint",
        )
    step, config, loaded = saved_steps.read_newest(folder, steps, _read_networks)
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


def _read_networks(step_folder: pathlib.Path, _) -> dict[str, Any]:
    """The parts of a saved state that are networks, as numpy arrays."""
    item = step_folder / "state"
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
        return checkpointer.restore(
            item,
            ocp.args.PyTreeRestore(wanted, restore_args=as_numpy, partial_restore=True),
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

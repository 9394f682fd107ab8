"""Meta-training: `python -m flax_heads.train --config=configs/... --workdir=...`.

The same command again resumes. A checkpoint in the workdir wins, the newest intact one;
else `config.resume` continues another run's whole state; else `config.init_from` starts
from its networks; else training begins from scratch.

| exit code | what happened | what to do |
|---|---|---|
| 0 | all steps are done | |
| 2 | one line: bad input, config or checkpoint, or the disk is full | what it says |
| 3 | too many steps in a row were not finite | `python -m flax_heads.replay FILE` |
| 4 | the input or a device (a dead peer's) did not answer | see `stalled.txt`, run again |
| 143 | told to stop (SIGTERM; one process: Ctrl-C), saved | run again |

After a kill or any other code: run again; what is lost are the steps since the last
checkpoint, and they are made again.
"""

from __future__ import annotations

import functools
import pathlib
import sys
import time

import jax
from absl import flags
from ml_collections import ConfigDict

from data_pipeline.errors import InputError
from flax_heads import (
    checkpoints,
    config_file,
    model_file,
    parallel,
    recipe,
    replay,
    saved_steps,
    spectral,
)
from flax_heads.console import log, progress, set_up
from flax_heads.held_out import make_held_out_check
from flax_heads.info import log_run
from flax_heads.metric_writer import MetricWriter
from flax_heads.state import TrainState
from flax_heads.training_data import check_same_data, note_data, open_episodes
from flax_heads.watch import FAILED, SkippedSteps, Watchdog, leave, stop_signal

_USAGE = (
    "usage: flax-heads train --config=FILE.py[:ARG] --workdir=DIR "
    "[--config.FIELD=VALUE ...] [--distributed=auto|HOST:PORT,RANK/COUNT]"
)
EXIT_NOT_FINITE = 3
EXIT_PREEMPTED = 143


def train(config: ConfigDict, workdir: str | pathlib.Path) -> TrainState:
    """Runs or resumes meta-training to `config.num_train_steps`.

    Leaves in `workdir`: `checkpoints/`, `config.json`, `metrics.jsonl`, TensorBoard
    events, and `held_out_<step>.png`, a contact sheet of people it never trained on.

    Raises:
      InputError: bad data or config, a checkpoint of another config, or one that could
        not be saved.
      FloatingPointError: `config.max_non_finite_steps` in a row were not finite.
      SystemExit: told to stop; saved.
    """
    # --- What to train on, and with what
    workdir = pathlib.Path(workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    recipe.check(config)
    config_json = recipe.as_json(config)
    mesh = parallel.make_mesh()
    parallel.check_batch_size(mesh, config.batch_size, config.accumulate)
    data, held_out = open_episodes(config, workdir)
    look = make_held_out_check(recipe.networks(config), held_out, config)
    _refuse_other_data(workdir, config, data)

    # --- The state: from a checkpoint or fresh
    init = functools.partial(recipe.new_state, config, data.num_videos)
    state = _restore_or_init(config, config_json, init, mesh, workdir)
    first_step = int(state.step)
    if first_step >= config.num_train_steps and _saved(workdir):
        log.info(
            "%s: all %d steps are done (at step %d): nothing to do, and its config stays "
            "as it is",
            *(workdir, config.num_train_steps, first_step),
        )
        return state
    shapes = parallel.abstract_batch(config.batch_size, config.num_support, config.size)
    step_fn = parallel.compile_step(recipe.meta_step(config), mesh, state, shapes)
    log_run(config, data, held_out, mesh, state, step_fn)

    # --- The loop
    batches = parallel.place_batches(
        data.batches(
            config.seed,
            first_step,
            config.batch_size,
            config.num_support,
            jax.process_index(),
            jax.process_count(),
            config.data.identity_augmentation,
        ),
        mesh,
    )
    is_first_process = jax.process_index() == 0
    if is_first_process:
        (workdir / "config.json").write_text(config.to_json_best_effort(indent=2))
    writer = MetricWriter(workdir, first_step, active=is_first_process)
    # One step in flight keeps the devices busy. Simulated devices may deadlock on more
    # than none.
    in_flight = 0 if jax.default_backend() == "cpu" else 1
    skips = SkippedSteps(config.max_non_finite_steps, in_flight)
    started, since, skips_before = time.monotonic(), first_step, 0
    stopping = False
    with (
        Watchdog(config.stall_timeout_seconds, workdir) as now,
        checkpoints.open_manager(workdir, config.keep_checkpoints) as manager,
        progress("meta-training", config.num_train_steps, first_step) as show,
        stop_signal() as told_to_stop,
    ):
        for done in range(first_step + 1, config.num_train_steps + 1):
            now("waiting for the next batch")
            batch = next(batches)
            now("waiting for the devices")
            state, metrics = step_fn(state, batch)
            skips.add(done, metrics)
            if skips.stuck:
                manager.wait_until_finished()  # the error names the last checkpoint
                raise _not_finite(
                    workdir, done, skips.limit, config_json, state, batch, data
                )
            last = done == config.num_train_steps
            stopping = told_to_stop(done) and not last
            if done % config.log_every_steps == 0 or last or stopping:
                skips.catch_up()
                values = {name: float(value) for name, value in metrics.items()}
                elapsed = time.monotonic() - started
                values["steps_per_second"] = (done - since) / elapsed
                values["skipped_steps"] = skips.total - skips_before
                writer.scalars(done, values)
                shown = ("l1", "loss/content", "loss/discriminator", "steps_per_second")
                numbers = ", ".join(f"{name} {values[name]:.4g}" for name in shown)
                log.info("step %d: %s", done, numbers)
                started, since, skips_before = time.monotonic(), done, skips.total
            measured = None
            if done % config.eval_every_steps == 0 or last:
                now("checking on held-out people")
                measured, sheet = look(state)
                writer.scalars(done, measured)
                path = writer.image(done, "held_out", sheet)
                log.info("step %d: held-out people %s, see %s", done, measured, path)
                started, since = time.monotonic(), done
            if done % config.checkpoint_every_steps == 0 or last or stopping:
                now("saving a checkpoint")
                checkpoints.save(manager, done, state, config_json, measured)
            checkpoints.check(manager)
            show(done)
            if stopping:
                break
        # No step was left to make: another run's state, or its networks, were asked for.
        if first_step >= config.num_train_steps:
            checkpoints.save(manager, first_step, state, config_json)
        now("waiting for the last save")
    writer.close()
    if stopping:
        log.warning("told to stop: saved step %d, run again to resume", done)
        raise SystemExit(EXIT_PREEMPTED)
    return state


def _saved(workdir: pathlib.Path) -> bool:
    steps = saved_steps.newest_first(saved_steps.folder_of(workdir))
    return bool(saved_steps.as_first_process(steps))


def _restore_or_init(config, config_json, init, mesh, workdir):
    target = jax.eval_shape(init)
    target = jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(
            leaf.shape, leaf.dtype, sharding=sharding
        ),
        target,
        parallel.state_shardings(mesh, target),
    )
    state = checkpoints.restore_newest(workdir, target, config_json)
    if state is None and config.resume:
        state = checkpoints.restore_newest(
            config.resume, target, config_json, read_only=True
        )
        if state is None:
            raise InputError(
                f"{config.resume}: has no checkpoint to resume from; expected the "
                "--workdir of a training run",
                reason="no_checkpoint",
            )
    if state is None:
        state = parallel.jit_init(init, mesh)
        if config.init_from:
            step, trained_by, loaded = model_file.load_networks(config.init_from)
            log.info("networks from step %d of %s", step, config.init_from)
            # The vectors are of the live parameters, these the moving averages.
            loaded["generator_vectors"] = jax.jit(spectral.refine)(
                loaded["ema"], loaded["generator_vectors"]
            )
            state = checkpoints.with_networks(state, loaded, config.init_from)
            if others := recipe.other_meaning(trained_by, config):
                log.warning(
                    "they were trained with other fields: %s", "; ".join(others)
                )
    return state


def _refuse_other_data(workdir, config, data):
    """Raises InputError where a state to go on from has seen other videos."""
    for run in filter(None, (workdir, config.resume)):
        if saved_steps.newest_first(saved_steps.folder_of(run)):
            check_same_data(run, data, config.data.path)
            break
    if jax.process_index() == 0:
        note_data(workdir, data, [m for m in (config.resume, config.init_from) if m])


def _not_finite(workdir, step, limit, config_json, state, batch, data):
    """Leaves what it takes to run the step again; returns the error to raise."""
    path = workdir / f"replay_{step:07d}.npz"
    before = state.replace(step=state.step - 1)  # all else of it was left as it was
    try:
        videos = replay.save(path, config_json, before, batch, data.videos)
        how = f"`python -m flax_heads.replay {path}` runs it again"
    except OSError as error:
        videos, how = [], f"it could not be kept to run again ({error})"
    return FloatingPointError(
        f"step {step}: not finite, like the {limit - 1} before it; videos: "
        f"{', '.join(videos)}; {how}; of the checkpoints "
        f"{saved_steps.last_good(workdir)}"
    )


def run(argv: list[str]) -> int:
    """Parses the flags of `argv` and trains; returns the exit code."""
    if {"-h", "--help"} & set(argv):
        print(f"{_USAGE}\n\n{__doc__}\nFields of a config: configs/common.py.")
        return 0
    values = flags.FlagValues()
    flags.DEFINE_string("workdir", None, "The run's folder.", flag_values=values)
    flags.DEFINE_string(
        "distributed",
        None,
        "One of several processes: auto, or HOST:PORT,RANK/COUNT.",
        flag_values=values,
    )
    flags.mark_flag_as_required("workdir", flag_values=values)
    try:
        config = config_file.parse(values, argv)
    except InputError as error:
        raise InputError(f"{error}; {_USAGE}", "arguments") from error
    workdir = values.workdir
    set_up(values.distributed)
    if jax.process_index() == 0:
        pathlib.Path(workdir, FAILED).unlink(missing_ok=True)
    try:
        train(config, workdir)
    except FloatingPointError as error:
        return leave(EXIT_NOT_FINITE, str(error), workdir)
    except InputError as error:
        return leave(2, str(error), workdir)
    except OSError as error:  # of the disk: a log, a picture
        message = (
            f"{error.filename or workdir}: {error.strerror or error}; of the checkpoints "
            f"{saved_steps.last_good(workdir)}; make room and run again to resume"
        )
        return leave(2, message, workdir)
    return 0


if __name__ == "__main__":
    from flax_heads.cli import main

    sys.exit(main(["train", *sys.argv[1:]]))

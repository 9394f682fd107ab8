"""Meta-training: `python -m flax_heads.train --config=configs/... --workdir=...`.

The same command again resumes. A checkpoint in the workdir wins; else `config.resume`
continues another run's whole state; else `config.init_from` starts from its networks;
else training begins from scratch.
"""

from __future__ import annotations

import contextlib
import functools
import pathlib
import signal
import sys
import time

import jax
import numpy as np
from absl import flags
from ml_collections import ConfigDict, config_flags

from data_pipeline.errors import InputError
from flax_heads import checkpoints, parallel, recipe
from flax_heads.console import log, progress, set_up
from flax_heads.figures import contact_sheet
from flax_heads.losses import mean_l1
from flax_heads.meta_learning import embed, generate, project
from flax_heads.metric_writer import MetricWriter
from flax_heads.objectives import to_unit_range
from flax_heads.spectral import normalize, power_iteration
from flax_heads.state import TrainState
from flax_heads.training_data import open_episodes

# Exit code of a run that was told to stop (SIGTERM), saved, and can be resumed.
EXIT_PREEMPTED = 143
_SHEET_ROWS = 6


def train(config: ConfigDict, workdir: str | pathlib.Path) -> TrainState:
    """Runs or resumes meta-training to `config.num_train_steps`.

    Leaves in `workdir`: `checkpoints/`, `config.json`, `metrics.jsonl`, TensorBoard
    events, and `held_out_<step>.png`, a contact sheet of people it never trained on.

    Raises:
      InputError: bad data or config, or a checkpoint of another config.
    """
    # --- What to train on, and with what
    workdir = pathlib.Path(workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    config_json = recipe.as_json(config)
    mesh = parallel.make_mesh()
    parallel.check_batch_size(mesh, config.batch_size)
    data, held_out = open_episodes(config, workdir)
    networks = recipe.networks(config)
    log.info(
        "%d videos at %d px; batch %d of K=%d; %d device(s); content loss: %s",
        data.num_videos,
        data.size,
        config.batch_size,
        config.num_support,
        mesh.size,
        recipe.content_terms(config),
    )

    # --- The state: from a checkpoint or fresh
    init = functools.partial(recipe.new_state, config, data.num_videos)
    manager = checkpoints.open_manager(workdir, config.keep_checkpoints)
    state = _restore_or_init(config, config_json, init, mesh, manager)
    first_step = int(state.step)
    if jax.process_index() == 0:
        (workdir / "config.json").write_text(config.to_json_best_effort(indent=2))
    step_fn = parallel.jit_step(recipe.meta_step(config), mesh, state)

    # --- The loop
    local = (jax.process_index(), jax.process_count())
    batches = parallel.place_batches(
        data.batches(
            config.seed, first_step, config.batch_size, config.num_support, *local
        ),
        mesh,
    )
    look = make_held_out_check(networks, held_out, config)
    writer = MetricWriter(workdir)
    started, since, done = time.monotonic(), first_step, first_step
    previous, on_cpu = None, jax.default_backend() == "cpu"
    bar = progress("meta-training", config.num_train_steps, first_step)
    stopping = False
    with manager, bar as show, _sigterm_noted() as told_to_stop:
        for step in range(first_step, config.num_train_steps):
            state, metrics = step_fn(state, next(batches))
            # One step in flight keeps the devices busy. Simulated devices may deadlock
            # on more than none.
            jax.block_until_ready(metrics if on_cpu else previous)
            previous = metrics
            done = step + 1
            stopping = told_to_stop()
            last = stopping or done == config.num_train_steps
            if done % config.log_every_steps == 0 or last:
                values = {name: float(value) for name, value in metrics.items()}
                now = time.monotonic()
                values["steps_per_second"] = (done - since) / (now - started)
                writer.scalars(done, values)
                shown = ("l1", "loss/content", "loss/discriminator", "steps_per_second")
                numbers = ", ".join(f"{name} {values[name]:.4g}" for name in shown)
                log.info("step %d: %s", done, numbers)
                started, since = now, done
                _refuse_non_finite(values, done)
            if done % config.eval_every_steps == 0 or last:
                values, sheet = look(state)
                writer.scalars(done, values)
                path = writer.image(done, "held_out", sheet)
                log.info("step %d: held-out people %s, see %s", done, values, path)
                started, since = time.monotonic(), done
            if done % config.checkpoint_every_steps == 0 or last:
                checkpoints.save(manager, done, state, config_json)
            show(done)
            if stopping:
                break
    writer.close()
    if stopping:
        log.warning("told to stop: saved step %d, run again to resume", done)
        raise SystemExit(EXIT_PREEMPTED)
    return state


def make_held_out_check(networks, held_out, config):
    """Builds state -> (metrics, contact sheet) on fixed episodes of held-out people."""
    people = min(held_out.num_videos, 32)
    if not people:
        raise InputError(
            f"{config.data.path}: no held-out people; prepare with a test split or "
            "raise data.held_out",
            reason="no_held_out",
        )
    batch = next(held_out.batches(0, 0, people, config.num_support))

    @jax.jit
    def feed_forward(params, vectors, batch):
        # The vectors are the live parameters'; a few iterations make them the EMA's.
        params = normalize(params, power_iteration(params, vectors, 5))
        images = {k: to_unit_range(v) for k, v in batch.items() if k != "video_index"}
        embedding = embed(
            networks, params, images["support_frames"], images["support_rasters"]
        )
        psi = project(networks, params, embedding)
        fake = generate(networks, params, images["target_raster"], psi)
        return fake, mean_l1(fake, images["target_frame"]) / 2

    def check(state):
        fake, l1 = feed_forward(state.ema, state.generator.vectors, batch)
        rows = slice(0, _SHEET_ROWS)
        sheet = contact_sheet(
            {
                "source": batch["support_frames"][rows, 0],
                "raster": batch["target_raster"][rows],
                "feed-forward": to_uint8(np.asarray(fake[rows])),
                "truth": batch["target_frame"][rows],
            }
        )
        return {"held_out/l1": float(l1)}, sheet

    return check


def to_uint8(frames: np.ndarray) -> np.ndarray:
    """Float [-1, 1] -> uint8 [0, 255]."""
    return np.clip((frames + 1) * 127.5 + 0.5, 0, 255).astype(np.uint8)


def _restore_or_init(config, config_json, init, mesh, manager):
    target = jax.eval_shape(init)
    target = jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(
            leaf.shape, leaf.dtype, sharding=sharding
        ),
        target,
        parallel.state_shardings(mesh, target),
    )
    step = manager.latest_step()
    if step is not None:
        log.info("resuming from step %d of %s", step, manager.directory)
        return checkpoints.restore(manager, step, target, config_json)
    if config.resume:
        return checkpoints.restore_from(config.resume, target, config_json)
    state = parallel.jit_init(init, mesh)
    if config.init_from:
        step, _, loaded = checkpoints.load_for_fine_tuning(config.init_from)
        log.info("networks from step %d of %s", step, config.init_from)
        state = checkpoints.with_networks(state, loaded, config.init_from)
    return state


def _refuse_non_finite(values, step):
    bad = sorted(name for name, value in values.items() if not np.isfinite(value))
    if bad:
        raise FloatingPointError(
            f"step {step}: {', '.join(bad)} not finite; the last checkpoint is intact"
        )


@contextlib.contextmanager
def _sigterm_noted():
    """Notes SIGTERM instead of dying of it; yields what tells whether it came."""
    came: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: came.append(number))
    try:
        yield lambda: bool(came)
    finally:
        signal.signal(signal.SIGTERM, before)


def run(argv: list[str]) -> int:
    """Parses the flags of `argv` and trains; returns the exit code."""
    values = flags.FlagValues()
    config_flags.DEFINE_config_file(
        "config", None, "A recipe.", values, lock_config=True, sys_argv=argv
    )
    flags.DEFINE_string("workdir", None, "The run's folder.", flag_values=values)
    flags.mark_flags_as_required(["config", "workdir"], flag_values=values)
    try:
        rest = values(argv)[1:]
        if rest:
            raise flags.Error(f"unexpected argument {rest[0]!r}")
        config, workdir = values.config, values.workdir
        config.lock()  # a file that failed to load says so at its first use
    # A config file is code: whatever it raises is an error of the user's file.
    except Exception as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        message = lines[-1] if lines else type(error).__name__
        if isinstance(error, AttributeError | KeyError):
            message = f"the config has no field {message.strip(chr(34))}"
        raise InputError(
            f"{message}; usage: {argv[0]} --config=FILE.py[:ARG] --workdir=DIR "
            "[--config.FIELD=VALUE ...]",
            "arguments",
        ) from error
    set_up()
    train(config, workdir)
    return 0


if __name__ == "__main__":
    from flax_heads.cli import main

    sys.exit(main(["train", *sys.argv[1:]]))

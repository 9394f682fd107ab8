"""A run that goes wrong says so: skipped steps, stalls, and what it leaves to find out."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from data_pipeline.errors import InputError
from flax_heads import recipe, replay
from flax_heads.metric_writer import METRICS, MetricWriter
from flax_heads.train import EXIT_NOT_FINITE, train
from flax_heads.watch import EXIT_STALLED, SkippedSteps
from tests.test_train import tiny_config

ROOT = pathlib.Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.filterwarnings("ignore:Some donated buffers")


def _lines(workdir) -> list[dict]:
    return [json.loads(x) for x in (workdir / "metrics.jsonl").read_text().splitlines()]


class Metrics(dict):
    """Metrics of a step that note when they are looked at."""

    looked_at = False

    def __getitem__(self, name):
        self.looked_at = True
        return super().__getitem__(name)


def _feed(skips, pattern):
    steps = [Metrics(skipped=np.float32(c == "x")) for c in pattern]
    for i, metrics in enumerate(steps):
        skips.add(i + 1, metrics)
        if skips.stuck:
            break
    return steps


def test_skipped_steps_are_counted_one_step_late():
    skips = SkippedSteps(limit=3)
    steps = _feed(skips, "..x.")
    assert [m.looked_at for m in steps] == [True, True, True, False]
    assert (skips.total, skips.in_a_row) == (1, 1)
    skips.catch_up()
    assert (skips.total, skips.in_a_row) == (1, 0)


@pytest.mark.parametrize("limit", [1, 2, 3])
@pytest.mark.parametrize("in_flight", [0, 1])
def test_the_step_too_many_is_noticed_before_another_starts(limit, in_flight):
    skips = SkippedSteps(limit, in_flight)
    steps = _feed(skips, ".x." + "x" * 5)
    expected = 2 if limit == 1 else 3 + limit  # steps that were started
    assert skips.stuck and sum(m.looked_at for m in steps) == expected


# --- Stalls


_DOG = """
import sys, time
from flax_heads.watch import Watchdog
with Watchdog(float(sys.argv[2]), sys.argv[1]) as now:
    print("up", flush=True)
    for _ in range(int(sys.argv[3])):
        now("waiting for the next batch")
        time.sleep(float(sys.argv[4]))
"""


def _dog(folder, limit, times, pause):
    command = [
        sys.executable,
        "-c",
        _DOG,
        str(folder),
        *map(str, (limit, times, pause)),
    ]
    process = subprocess.Popen(
        command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    process.stdout.readline()
    return process


def test_watchdog_ends_what_hangs_and_says_where(tmp_path):
    process = _dog(tmp_path, 0.5, 1, 60)
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == EXIT_STALLED
    assert "stalled: waiting for the next batch for more than 0.5 s" in stderr
    assert "<string>" in (tmp_path / "stalled.txt").read_text()


def test_watchdog_lets_alone_what_works(tmp_path):
    slow, endless = _dog(tmp_path, 3, 20, 0.2), _dog(tmp_path, 0, 1, 1)
    suspended = _dog(tmp_path, 3, 10, 0.1)
    suspended.send_signal(signal.SIGSTOP)
    time.sleep(5)  # as a cluster does with a job that must make room
    suspended.send_signal(signal.SIGCONT)
    for process in (slow, endless, suspended):
        process.communicate(timeout=30)
        assert process.returncode == 0
    assert not list(tmp_path.iterdir())


_STALLED_INPUT = """
import pathlib, sys, time
from data_pipeline.archive import Archive
from flax_heads.train import train
from tests.test_train import tiny_config

class Stalls(Archive):
    def batches(self, *args):
        for i, batch in enumerate(super().batches(*args)):
            if i == 4 and self.num_videos == 8:
                while not pathlib.Path(sys.argv[1], "checkpoints", "2").exists():
                    time.sleep(0.1)  # it is saved meanwhile
                time.sleep(1000)
            yield batch

import data_pipeline.archive, flax_heads.training_data
def load(path, load=data_pipeline.archive.load_archive):
    return Stalls(**vars(load(path)))
flax_heads.training_data.load_archive = load
config = tiny_config(100)
config.stall_timeout_seconds = 10.0
train(config, sys.argv[1])
"""


def test_run_whose_input_stalls_ends_in_time(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", _STALLED_INPUT, str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == EXIT_STALLED, done.stderr
    assert "stalled: waiting for the next batch" in done.stderr
    assert "in batches" in (tmp_path / "stalled.txt").read_text()
    assert (tmp_path / "checkpoints" / "2").is_dir()


# --- Steps that are not finite


_RECIPE = """
from tests.test_train import tiny_config

def get_config(arg=None):
    config = tiny_config(6)
    config.loss.pixel = 3e38  # times a loss above 1.2 is infinite in float32
    config.max_non_finite_steps = 3
    return config
"""


def test_run_that_is_stuck_stops_and_can_be_replayed(tmp_path):
    (tmp_path / "recipe.py").write_text(_RECIPE)
    workdir = tmp_path / "run"
    command = [sys.executable, "-m", "flax_heads.train", f"--workdir={workdir}"]
    done = subprocess.run(
        [*command, f"--config={tmp_path / 'recipe.py'}"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == EXIT_NOT_FINITE, done.stderr
    message = done.stderr.strip().splitlines()[-1]
    path = workdir / "replay_0000003.npz"
    assert "step 3: not finite" in message and "synthetic0_0000" in message
    assert str(path) in message and str(workdir / "checkpoints" / "2") in message
    assert [line["skipped_steps"] for line in _lines(workdir)] == [1, 1]
    assert _lines(workdir)[0]["loss/content"] is None  # JSON knows no infinity
    metrics = replay.run(path)
    assert metrics["skipped"] == 1 and metrics["loss/content"] == np.inf
    assert np.isfinite(metrics["loss/discriminator"])


def test_one_bad_step_is_passed_over(tmp_path, monkeypatch):
    meta_step = recipe.meta_step

    def fails_once(config):
        step = meta_step(config)

        def spoilt(state, batch):
            frames = batch["target_frame"].astype(jnp.float32)
            frames = jnp.where(state.step == 1, jnp.nan, frames)
            return step(state, batch | {"target_frame": frames})

        return Partial(spoilt)

    monkeypatch.setattr(recipe, "meta_step", fails_once)
    state = train(tiny_config(3), tmp_path)
    lines = [line for line in _lines(tmp_path) if "l1" in line]
    assert [line["skipped_steps"] for line in lines] == [0, 1, 0]
    assert int(state.step) == 3 and lines[2]["loss/content"] > 0
    assert {name for line in _lines(tmp_path) for name in line} <= {*METRICS, "step"}


def test_what_is_no_replay_is_one_line(tmp_path, capsys):
    path = tmp_path / "replay.npz"
    path.write_bytes(b"PK")
    for name in (path, tmp_path / "missing.npz"):
        with pytest.raises(InputError, match="not a step to replay"):
            replay.run(name)
    assert replay.main([str(path)]) == 2 and replay.main([]) == 2
    assert "usage" in capsys.readouterr().err


# --- The log


def test_metrics_read_as_if_the_run_had_never_stopped(tmp_path):
    path = tmp_path / "metrics.jsonl"
    writer = MetricWriter(tmp_path, 0)
    for step in (1, 2, 3):
        writer.scalars(step, {"l1": 0.5, "loss/match": float("nan")})
    writer.close()
    path.write_text(path.read_text() + '{"step": 4, "l')  # killed while writing
    writer = MetricWriter(tmp_path, 2)
    writer.scalars(3, {"l1": 0.25})
    writer.close()
    assert _lines(tmp_path) == [
        {"step": 1, "l1": 0.5, "loss/match": None},
        {"step": 2, "l1": 0.5, "loss/match": None},
        {"step": 3, "l1": 0.25},
    ]


def test_only_one_process_writes(tmp_path):
    writer = MetricWriter(tmp_path, 0, active=False)
    writer.scalars(1, {"l1": 0.5})
    writer.image(1, "held_out", np.zeros((4, 4, 3), np.uint8))
    writer.close()
    assert not list(tmp_path.iterdir())

"""Two real processes that train together: told to stop, resumed, one of them hung."""

import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from flax_heads import checkpoints, saved_steps
from flax_heads.train import EXIT_PREEMPTED
from flax_heads.training_data import open_episodes
from flax_heads.watch import EXIT_STALLED
from tests.test_train import tiny_config

ROOT = pathlib.Path(__file__).resolve().parents[1]

_PROCESS = """
import sys
import jax

def main(port, rank, workdir):
    jax.distributed.initialize(f"127.0.0.1:{port}", num_processes=2, process_id=int(rank))
    from flax_heads.train import train
    from tests.test_train import tiny_config
    config = tiny_config(100_000)
    config.stall_timeout_seconds = 30.0
    train(config, workdir)

if __name__ == "__main__":
    main(*sys.argv[1:])
"""


@pytest.fixture
def start(tmp_path):
    """Starts both processes on one workdir; none is left behind."""
    script, processes = tmp_path / "process.py", []
    script.write_text(_PROCESS)
    flags = "--xla_force_host_platform_device_count=1"
    environment = os.environ | {"PYTHONPATH": str(ROOT), "XLA_FLAGS": flags}

    def start_two(workdir):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        two = [
            subprocess.Popen(
                [sys.executable, str(script), str(port), rank, str(workdir)],
                cwd=ROOT,
                env=environment,
                stderr=subprocess.PIPE,
                text=True,
            )
            for rank in "01"
        ]
        processes.extend(two)
        return two

    yield start_two
    for process in processes:
        process.kill()
        process.communicate()


def _saved(workdir) -> list[int]:
    return saved_steps.newest_first(saved_steps.folder_of(workdir))


def _wait_for_step(workdir, step, processes):
    deadline = time.monotonic() + 180
    while not any(saved >= step for saved in _saved(workdir)):
        assert time.monotonic() < deadline
        assert all(process.poll() is None for process in processes)
        time.sleep(0.05)


def test_two_processes_stop_together_and_outlive_a_hung_one(tmp_path, start):
    workdir = tmp_path / "run"
    workdir.mkdir()
    open_episodes(tiny_config(1), workdir)  # renders the people once
    two = start(workdir)
    _wait_for_step(workdir, 2, two)
    two[1].send_signal(signal.SIGTERM)
    time.sleep(0.3)  # a cluster does not tell all at once
    two[0].send_signal(signal.SIGTERM)
    assert [p.wait(timeout=60) for p in two] == [EXIT_PREEMPTED] * 2
    stopped_at = _saved(workdir)[0]

    two = start(workdir)
    _wait_for_step(workdir, stopped_at + 1, two)
    two[1].send_signal(signal.SIGSTOP)
    assert two[0].wait(timeout=60) == EXIT_STALLED
    assert "stalled: " in two[0].stderr.read()
    assert "train.py" in (workdir / "stalled.txt").read_text()

    # One process alone reads what two have written, and sees what is damaged.
    newest = saved_steps.folder_of(workdir) / str(_saved(workdir)[0])
    digests = saved_steps.read_json(newest, "digests")
    spread = {name for name, digest in digests.items() if digest is None}
    assert spread == {n for n in digests if n.startswith("state/video_embeddings/")}
    _, _, loaded = checkpoints.load_for_fine_tuning(workdir)
    assert np.isfinite(loaded["discriminator"]["w0"]).all()
    shutil.rmtree(newest / "state" / "d", ignore_errors=True)
    for path in newest.rglob("ocdbt.process_*/d/*"):
        os.truncate(path, path.stat().st_size // 2)
    assert checkpoints.load_for_fine_tuning(workdir)[0] == _saved(workdir)[1]

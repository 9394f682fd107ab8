"""Two real processes that train together: told to stop, resumed, one of them hung."""

import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from data_pipeline.errors import InputError
from flax_heads import checkpoints, parallel, saved_steps
from flax_heads.train import EXIT_PREEMPTED, train
from flax_heads.training_data import open_episodes
from flax_heads.watch import EXIT_STALLED, FAILED
from tests import tiny
from tests.test_train import tiny_config

ROOT = pathlib.Path(__file__).resolve().parents[1]

_CONFIG = """
from tests.test_processes import with_face_network

def get_config(arg):
    steps, stall_timeout = arg.split(",")
    config = with_face_network(int(steps))
    config.stall_timeout_seconds = float(stall_timeout)
    return config
"""
# Stands in for ssh, which a test cannot count on: runs the command on this host.
# The second process hears of a stop a little later, as on a cluster, and what each ends
# with is noted.
_SSH = """#!/bin/sh
shift
trap : TERM  # `pkill` means what this shell runs
case "$*" in *pkill*,1/2*) sleep 0.3 ;; esac
sh -c "$*"
code=$?
echo "$code" >> "$CODES"
exit "$code"
"""


@pytest.fixture
def config_file(tmp_path):
    path = tmp_path / "two_processes.py"
    path.write_text(_CONFIG)
    return path


def _environment() -> dict[str, str]:
    """Of two devices each, in every test: programs that one has compiled, all read."""
    flags = "--xla_force_host_platform_device_count=2"
    return os.environ | {"PYTHONPATH": str(ROOT), "XLA_FLAGS": flags}


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.fixture
def start(config_file):
    """Starts both processes on one workdir; none is left behind."""
    processes = []

    def start_two(workdir, stall_timeout=300):
        port = _free_port()
        command = [sys.executable, "-m", "flax_heads.train", f"--workdir={workdir}"]
        command.append(f"--config={config_file}:100000,{stall_timeout}")
        two = [
            subprocess.Popen(
                [*command, f"--distributed=127.0.0.1:{port},{rank}/2"],
                cwd=ROOT,
                env=_environment(),
                stderr=subprocess.PIPE,
                text=True,
            )
            for rank in range(2)
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
    deadline = time.monotonic() + 300
    while not any(saved >= step for saved in _saved(workdir)):
        assert time.monotonic() < deadline
        assert all(process.poll() is None for process in processes)
        time.sleep(0.05)


@pytest.fixture
def launch(tmp_path, config_file):
    """`launch/ssh.sh` with two hosts that are both this one, of two devices each."""
    if missing := [n for n in ("bash", "setsid", "pkill") if not shutil.which(n)]:
        pytest.skip(f"launch/ssh.sh needs {', '.join(missing)}")
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "ssh").write_text(_SSH)
    (folder / "ssh").chmod(0o755)
    environment = _environment() | {
        "PATH": f"{folder}:{os.environ['PATH']}",
        "PYTHON": sys.executable,
        "CODES": str(tmp_path / "codes"),
    }
    started = []

    def run(steps, workdir):
        command = [str(ROOT / "launch" / "ssh.sh"), "127.0.0.1 127.0.0.1"]
        command += [f"--config={config_file}:{steps},300", f"--workdir={workdir}"]
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment | {"PORT": str(_free_port())},
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append((process, str(workdir)))
        return process

    yield run
    for process, workdir in started:
        if process.poll() is None:  # a test failed
            process.kill()
            subprocess.run(["pkill", "-KILL", "-f", f"[-]-workdir={workdir}"])
        process.communicate()


def with_face_network(steps):
    """Whose parameters every process puts on its devices.

    Its weight is small, for what its many layers round is not compared here. Nor is
    where that leads: with steps this short no ReLU is pushed over its edge, which shows
    in the gradients like an error.
    """
    config = tiny_config(steps)
    config.perceptual.face_id = 1e-3
    config.optimizer.generator_learning_rate = 1e-5
    config.optimizer.discriminator_learning_rate = 1e-5
    return config


def test_one_process_or_two_make_the_same_run(tmp_path, launch):
    """1 x 4 devices against 2 x 2, and each goes on from what the other has saved."""
    one, two = tmp_path / "one", tmp_path / "two"
    train(with_face_network(2), one)
    shutil.copytree(one, two)
    process = launch(4, two)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert _saved(two) == [4, 2]
    by_one, by_both = (train(with_face_network(6), workdir) for workdir in (one, two))
    assert int(by_both.step) == 6
    tiny.assert_leaves_near(jax.device_get(by_one), jax.device_get(by_both), 1e-3)


def test_two_processes_stop_together_and_outlive_a_hung_one(tmp_path, launch, start):
    """The launch script passes a stop on to both."""
    workdir = tmp_path / "run"
    script = launch(100_000, workdir)
    _wait_for_step(workdir, 2, [script])
    script.send_signal(signal.SIGTERM)
    _, errors = script.communicate(timeout=300)
    assert script.returncode == EXIT_PREEMPTED, errors
    codes = (tmp_path / "codes").read_text().split()  # of the programs, and of `pkill`
    assert codes.count(str(EXIT_PREEMPTED)) == 2
    stopped_at = _saved(workdir)[0]

    two = start(workdir, stall_timeout=30)
    _wait_for_step(workdir, stopped_at + 1, two)
    two[1].send_signal(signal.SIGSTOP)
    assert two[0].wait(timeout=300) == EXIT_STALLED
    assert "process 0 on " in (said := two[0].stderr.read()) and "stalled: " in said
    assert "train.py" in (workdir / "stalled_0.txt").read_text()

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


def test_an_error_of_one_process_keeps_its_exit_code(tmp_path, start):
    """The others die of its absence; the first code and why are in the workdir."""
    workdir = tmp_path / "run"
    workdir.mkdir()
    open_episodes(tiny_config(1), workdir)
    (workdir / "metrics.jsonl").mkdir()  # which the first process alone writes
    two = start(workdir)
    assert two[0].wait(timeout=300) == 2
    assert "metrics.jsonl" in two[0].stderr.read()
    assert (workdir / FAILED).read_text().startswith("2 ")
    assert two[1].wait(timeout=300) != 0


# Stand in for SLURM's programs: one process that ends with a code, and a note.
_SRUN = """#!/bin/sh
echo "$@" >> "$FAKE/srun"
[ -n "$SAVES" ] && mkdir -p "$FAKE/run/checkpoints/$SAVES"
[ -n "$FAILED" ] && echo "$FAILED" > "$FAKE/run/failed.txt"
exit "$CODE"
"""


@pytest.mark.parametrize(
    "code, saves, failed, restarts, requeued",
    [
        (143, "7", "", 50, True),  # told to stop, saved
        (137, "", "", 0, True),  # lost before it saved: perhaps the node
        (137, "", "", 3, False),  # again and again
        (137, "7", "", 3, True),  # but it gets on
        (134, "7", "2 no room", 0, False),  # the others, of one that ended with 2
        (2, "7", "", 0, False),
    ],
)
def test_slurm_queues_again_what_may_get_on(
    tmp_path, code, saves, failed, restarts, requeued
):
    workdir = tmp_path / "run"
    (workdir / "checkpoints" / "5").mkdir(parents=True)
    for name, text in (
        ("srun", _SRUN),
        ("scontrol", '#!/bin/sh\ntouch "$FAKE/queued"\n'),
    ):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    environment = os.environ | {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "FAKE": str(tmp_path),
        "CODE": str(code),
        "SAVES": saves,
        "FAILED": failed,
        "SLURM_JOB_ID": "1",
        "SLURM_RESTART_COUNT": str(restarts),
    }
    # Both of absl's ways.
    where = ["--workdir", workdir] if restarts else [f"--workdir={workdir}"]
    command = [ROOT / "launch" / "slurm.sh", "--config=c.py", *where]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == (int(failed.split()[0]) if failed else code), done.stderr
    assert (tmp_path / "queued").exists() == requeued


def test_slurm_script_asks_for_a_workdir():
    """Without one it would look for its files in the root of the file system."""
    command = [ROOT / "launch" / "slurm.sh", "--config=c.py"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and "--workdir=DIR" in done.stderr


@pytest.mark.parametrize("how", ["node0", "node0:99", "node0:99,2"])
def test_a_wrong_place_among_processes_is_told(how):
    with pytest.raises(InputError, match="HOST:PORT,RANK/COUNT"):
        parallel.join_processes(how)

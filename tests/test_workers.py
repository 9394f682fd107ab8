import os
import pathlib
import signal
import subprocess
import sys
import time

from data_pipeline.workers import Failure, run_tasks


def _task(task, beat):
    if task == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if task == "hang":
        time.sleep(60)
    if task == "slow":  # longer than the limit, but alive
        for _ in range(20):
            time.sleep(0.35)
            beat()
    if task == "raise":
        raise RuntimeError("no")
    return task * 2


def test_a_lost_worker_costs_one_task():
    tasks = ["a", "crash", "hang", "slow", "raise", "b", "c"]
    results = dict(run_tasks(_task, tasks, num_workers=2, silence_limit=6))
    assert {k: v for k, v in results.items() if not isinstance(v, Failure)} == {
        "a": "aa",
        "slow": "slowslow",
        "b": "bb",
        "c": "cc",
    }
    reasons = {k: v.reason for k, v in results.items() if isinstance(v, Failure)}
    assert reasons == {"crash": "crashed", "hang": "hung", "raise": "failed"}
    assert results["raise"].message == "RuntimeError: no"


_SCRIPT = """
from data_pipeline.workers import run_all
from tests.test_workers import _task
print("begun", flush=True)
print(run_all(_task, ["a", "b", "c"], 2))
"""


def test_a_script_runs_once_and_needs_no_guard(tmp_path):
    """Spawned processes do not run it again, as `multiprocessing` would have them do."""
    (tmp_path / "script.py").write_text(_SCRIPT)
    root = pathlib.Path(__file__).resolve().parents[1]
    done = subprocess.run(
        [sys.executable, tmp_path / "script.py"],
        env=os.environ | {"PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
    )
    assert done.stdout == "begun\n['aa', 'bb', 'cc']\n", done.stderr


def test_without_workers_tasks_run_here():
    assert dict(run_tasks(_task, ["a", "b"], 0)) == {"a": "aa", "b": "bb"}

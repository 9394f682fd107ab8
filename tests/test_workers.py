import os
import signal
import time

from data_pipeline.workers import Failure, run_tasks


def _task(task, beat):
    if task == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if task == "hang":
        time.sleep(60)
    if task == "slow":  # longer than the limit, but alive
        for _ in range(10):
            time.sleep(0.35)
            beat()
    if task == "raise":
        raise RuntimeError("no")
    return task * 2


def test_a_lost_worker_costs_one_task():
    tasks = ["a", "crash", "hang", "slow", "raise", "b", "c"]
    results = dict(run_tasks(_task, tasks, num_workers=2, silence_limit=2.5))
    assert {k: v for k, v in results.items() if not isinstance(v, Failure)} == {
        "a": "aa",
        "slow": "slowslow",
        "b": "bb",
        "c": "cc",
    }
    reasons = {k: v.reason for k, v in results.items() if isinstance(v, Failure)}
    assert reasons == {"crash": "crashed", "hang": "hung", "raise": "failed"}
    assert results["raise"].message == "RuntimeError: no"


def test_without_workers_tasks_run_here():
    assert dict(run_tasks(_task, ["a", "b"], 0)) == {"a": "aa", "b": "bb"}

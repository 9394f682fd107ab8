"""Worker processes for code that may crash or hang: media decoders do both.

`multiprocessing.Pool` waits for ever for a task whose worker died, and
`ProcessPoolExecutor` gives up on all tasks; here a lost worker costs one task.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
import time
import types
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any


@dataclasses.dataclass(frozen=True)
class Failure:
    """A task without a result.

    Attributes:
      reason: `crashed`, `hung` or `failed`.
      message: one line for people.
    """

    reason: str
    message: str


def default_workers() -> int:
    """The CPU cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return max(1, len(os.sched_getaffinity(0)))
    return os.cpu_count() or 1


def run_tasks(
    function: Callable[[Any, Callable[[], None]], Any],
    tasks: Iterable[Any],
    num_workers: int,
    silence_limit: float = 180.0,
) -> Iterator[tuple[Any, Any]]:
    """Runs `function(task, beat)` in spawned processes, in any order.

    Args:
      function: of a module, not of the script itself; calls `beat()` at least every
        `silence_limit` seconds, so that a long task can be told from a hung one.
      tasks, results: picklable.
      num_workers: processes; 0 runs in this one, unprotected.
      silence_limit: seconds without a beat after which a worker is killed.

    Yields:
      (task, result), where the result is a `Failure` if the worker died, hung or
      raised.
    """
    if num_workers < 0:
        raise ValueError(f"{num_workers} workers: expected 0 or more")
    if num_workers == 0:
        for task in tasks:
            yield task, _call(function, task, lambda: None)
        return
    waiting = collections.deque(tasks)
    workers: list[_Worker] = []
    try:
        while waiting or workers:
            while waiting and len(workers) < num_workers:
                workers.append(_Worker(function))
                workers[-1].start(waiting.popleft())
            multiprocessing.connection.wait([w.pipe for w in workers], timeout=1.0)
            for worker in list(workers):
                outcome = worker.poll(silence_limit)
                if outcome is None:
                    continue
                yield worker.task, outcome[0]
                if worker.stopped or not waiting:
                    worker.stop()
                    workers.remove(worker)
                else:
                    worker.start(waiting.popleft())
    finally:
        for worker in workers:
            worker.stop()


def run_all(
    function: Callable[[Any, Callable[[], None]], Any],
    tasks: Sequence[Any],
    num_workers: int | None = None,
    on_progress: Callable[[int], None] = lambda done: None,
) -> list[Any]:
    """`run_tasks` for tasks that do not fail: the results in the tasks' order.

    Args:
      tasks: hashable and different.
      num_workers: as in `run_tasks`; by default one for each core.
      on_progress: called with the number of tasks done.

    Raises:
      RuntimeError: a task failed after all.
    """
    if num_workers is None:
        num_workers = default_workers()
    results = {}
    for task, result in run_tasks(function, tasks, min(num_workers, len(tasks))):
        if isinstance(result, Failure):
            raise RuntimeError(f"task {task} failed: {result.message}")
        results[task] = result
        on_progress(len(results))
    return [results[task] for task in tasks]


class _Worker:
    """One process, the task it works on and the time of its last sign of life."""

    def __init__(self, function):
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(
            target=_work, args=(function, theirs), daemon=True
        )
        with _nameless_script():
            self.process.start()
        theirs.close()
        self.stopped = False

    def start(self, task) -> None:
        self.task = task
        self.last_beat = time.monotonic()
        with contextlib.suppress(BrokenPipeError):  # poll() reports the death
            self.pipe.send(task)

    def poll(self, silence_limit: float) -> tuple[Any] | None:
        """(result,) if the task has ended in some way, else None."""
        try:
            while self.pipe.poll():
                message = self.pipe.recv()
                if message is not None:
                    return message
                self.last_beat = time.monotonic()
        except (EOFError, OSError):
            self.stop()
            how = f"the worker process died (exit code {self.process.exitcode})"
            return (Failure("crashed", how),)
        if time.monotonic() - self.last_beat > silence_limit:
            self.stop()
            how = f"no progress for {silence_limit:.0f} s, the worker was stopped"
            return (Failure("hung", how),)
        return None

    def stop(self) -> None:
        self.stopped = True
        self.pipe.close()  # an idle worker ends by itself
        self.process.join(0.5)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()


@contextlib.contextmanager
def _nameless_script() -> Iterator[None]:
    """Keeps a new process from running the script that runs here once more.

    It would, to know the script's own functions: two seconds of importing JAX where that
    is a training run, and an error where the script's work is not behind
    `if __name__ == "__main__"`.
    """
    script = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = script


def _work(function, pipe) -> None:
    """The loop of a worker: ends with its parent, even with a killed one."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent stops its workers
    last_beat = time.monotonic()

    def beat() -> None:
        nonlocal last_beat
        if time.monotonic() - last_beat > 1.0:
            last_beat = time.monotonic()
            pipe.send(None)

    with contextlib.suppress(EOFError, OSError):
        while True:
            task = pipe.recv()
            pipe.send((_call(function, task, beat),))


def _call(function, task, beat) -> Any:
    try:
        return function(task, beat)
    except Exception as error:  # the run must survive any task
        return Failure("failed", f"{type(error).__name__}: {error}")

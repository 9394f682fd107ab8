"""What may go wrong while a run is under way, and is noticed: steps whose numbers are
not finite, an input or a device that no longer answers, the signal to stop."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import faulthandler
import os
import pathlib
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from flax_heads.console import log

EXIT_STALLED = 4
FAILED = "failed.txt"  # the exit code of a process of several, and why


@dataclasses.dataclass
class SkippedSteps:
    """Counts the steps that were skipped, and waits for the devices on the way.

    A step is looked at when `in_flight` later ones have been started, so that the
    devices need not wait for us. The step that may be one too many is looked at before
    another is started: when `stuck`, the state is still that before the skipped steps.

    Attributes:
      limit: so many in a row are too many.
      in_flight: steps to leave running.
      in_a_row: skipped without one in between that was not.
      total: skipped since this object was made.
    """

    limit: int
    in_flight: int = 1
    in_a_row: int = 0
    total: int = 0
    _waiting: collections.deque = dataclasses.field(default_factory=collections.deque)

    @property
    def stuck(self) -> bool:
        return self.in_a_row >= self.limit

    def add(self, step: int, metrics: dict[str, jax.Array]) -> None:
        """Notes that a step was started; `metrics` are its own, with "skipped"."""
        self._waiting.append((step, metrics))
        while len(self._waiting) > self._may_wait():
            self._look(*self._waiting.popleft())

    def catch_up(self) -> None:
        """Looks at every step that was started."""
        while self._waiting:
            self._look(*self._waiting.popleft())

    def _may_wait(self) -> int:
        return 0 if self.in_a_row + 1 >= self.limit else self.in_flight

    def _look(self, step, metrics):
        jax.block_until_ready(metrics)
        if not float(metrics["skipped"]):
            self.in_a_row = 0
            return
        self.in_a_row += 1
        self.total += 1
        log.warning("step %d skipped: %s not finite", step, ", ".join(bad(metrics)))


def bad(metrics: dict[str, Any]) -> list[str]:
    """Names of the metrics that are not finite."""
    return sorted(name for name, value in metrics.items() if not np.isfinite(value))


class Watchdog:
    """Ends the process when one and the same thing takes too long: a hang, with a reason.

    Called with what is begun ("waiting for the next batch"), it starts its clock anew.
    When the clock runs out, it leaves all threads' stacks in `stalled.txt`, one of several
    processes in `stalled_<its number>.txt`, says in one line what was waited for, and
    exits with EXIT_STALLED. It runs beside the main
    thread, which may be anywhere, so nothing is saved and no `finally` runs.
    """

    def __init__(self, seconds: float, workdir: str | pathlib.Path):
        """A limit of 0 seconds never ends anything."""
        self._limit, self._folder = seconds, pathlib.Path(workdir)
        self._doing = ("starting", time.monotonic())
        self._name, self._who = "stalled.txt", ""
        if jax.process_count() > 1:
            self._name = f"stalled_{jax.process_index()}.txt"
            self._who = f"process {jax.process_index()} on {socket.gethostname()}: "
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __call__(self, doing: str) -> None:
        self._doing = (doing, time.monotonic())

    def __enter__(self) -> Watchdog:
        self("starting")
        if self._limit:
            self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        self._over.set()

    def _watch(self):
        pause = min(1.0, self._limit / 4)
        last = time.monotonic()
        while not self._over.wait(pause):
            now = time.monotonic()
            asleep = (
                now - last > self._limit / 2
            )  # this process was suspended as a whole
            last = now
            doing, since = self._doing
            if asleep:
                self(doing)
            elif now - since > self._limit:
                self._stop(doing)

    def _stop(self, doing):
        path = self._folder / self._name
        try:
            with path.open("w") as file:
                faulthandler.dump_traceback(file, all_threads=True)
            where = f"; the stacks are in {path}"
        except OSError:
            faulthandler.dump_traceback(sys.__stderr__, all_threads=True)
            where = ""
        limit = f"for more than {self._limit:g} s"
        message = f"flax-heads: {self._who}stalled: {doing} {limit}{where}"
        print(message, file=sys.stderr, flush=True)
        os._exit(EXIT_STALLED)


def leave(code: int, message: str, workdir: str | pathlib.Path) -> int:
    """Says why the run ends; returns `code`, or ends one of several processes with it.

    There JAX would wait at exit for peers that wait for this one, and abort them all:
    the code would be lost. It is left in `workdir`/failed.txt as well.
    """
    print(f"flax-heads: {message}", file=sys.stderr, flush=True)
    if jax.process_count() > 1:
        with contextlib.suppress(OSError):
            pathlib.Path(workdir, FAILED).write_text(f"{code} {message}\n", "utf-8")
        os._exit(code)
    return code


@contextlib.contextmanager
def stop_signal() -> Iterator[Callable[[int], bool]]:
    """Notes SIGTERM instead of dying of it; yields step -> whether to stop after it.

    The first Ctrl-C is noted as well; a second one interrupts at once. Several processes
    get the signal (SIGTERM alone) at different moments, so JAX's own service agrees on a
    step for all of them.
    """
    if jax.process_count() > 1:
        yield multihost_utils.reached_preemption_sync_point
        return
    came: list[int] = []

    def note(number, _):
        came.append(number)
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, before[signal.SIGINT])

    before = {
        number: signal.signal(number, note)
        for number in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        yield lambda step: bool(came)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

"""Fair timing: each candidate in a process of its own, one run of each after the other.

Separate processes keep peak memory apart and let candidates live in different Python
environments. A candidate is a command that ends in `serve`. Before each timed run comes one
that is not: memory that a process freed is the system's again after its pause, and to
fault it in anew took up to half of a run. Training has no such pauses.
"""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

_READY, _GO = "ready", "go"


def serve(run: Callable[[], Any], information: dict[str, Any] | None = None) -> None:
    """Offers `run` to `compare`: a timed run for every line of standard input.

    Args:
      run: does the work once and returns when it is done.
      information: of the candidate, for its row; JSON. By default the seconds of a
        first run, which compiles.
    """
    if information is None:
        start = time.perf_counter()
        run()
        information = {"compile_s": time.perf_counter() - start}
    answers, sys.stdout = sys.stdout, sys.stderr  # nothing else may print answers
    print(json.dumps({_READY: information}), file=answers, flush=True)
    for line in sys.stdin:
        if line.strip() != _GO:
            break
        run()  # takes back memory and caches that went while the others ran
        start = time.perf_counter()
        run()
        seconds = time.perf_counter() - start
        print(json.dumps({"seconds": seconds}), file=answers, flush=True)
    print(json.dumps({"peak_memory_mib": _peak_memory_mib()}), file=answers, flush=True)


def compare(candidates: dict[str, Sequence[str]], rounds: int) -> list[dict[str, Any]]:
    """Runs candidates in turn: all of them once, then all of them again, and so on.

    Args:
      candidates: name -> command of a process that calls `serve`.
      rounds: timed runs of each.

    Returns:
      a row for each: its information, median, smallest and largest seconds, peak
      memory, and `speed`, the first one's median seconds over its own. A candidate that failed
      has the row {"name", "error"}.
    """
    processes: dict[str, subprocess.Popen] = {}
    rows, times = {}, {name: [] for name in candidates}
    try:
        for name, command in candidates.items():  # each is ready before the next begins
            processes[name] = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
            answer = _answer(processes[name])
            rows[name] = {"name": name, **(answer or {}).get(_READY, {})}
            if answer is None:
                rows[name]["error"] = f"ended with exit code {processes[name].wait()}"
        for _ in range(rounds):
            for name, process in processes.items():
                if "error" in rows[name]:
                    continue
                print(_GO, file=process.stdin, flush=True)
                answer = _answer(process)
                if answer is None:
                    rows[name]["error"] = f"ended with exit code {process.wait()}"
                else:
                    times[name].append(answer["seconds"])
        for name, process in processes.items():
            if "error" not in rows[name]:
                process.stdin.close()
                rows[name] |= _answer(process) or {}
    finally:
        for process in processes.values():
            process.kill()
            process.wait()
    for name, seconds in times.items():
        if seconds:
            rows[name] |= {
                "seconds": statistics.median(seconds),
                "seconds_min": min(seconds),
                "seconds_max": max(seconds),
            }
    first = next(iter(rows.values())).get("seconds")
    for row in rows.values():
        if first and row.get("seconds"):
            row["speed"] = first / row["seconds"]
    return list(rows.values())


def _answer(process: subprocess.Popen) -> dict | None:
    for line in process.stdout:
        if line.startswith("{"):
            return json.loads(line)
        print(line, end="", file=sys.stderr)  # a library's, from before `serve`
    return None


def _peak_memory_mib() -> float:
    """Of the accelerator where there is one, else of this process."""
    torch = sys.modules.get("torch")
    if torch and torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    if "jax" in sys.modules and not torch:
        statistics_ = sys.modules["jax"].devices()[0].memory_stats()
        if statistics_:
            return statistics_["peak_bytes_in_use"] / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10

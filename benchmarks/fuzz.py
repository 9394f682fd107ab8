"""Feeds broken files to everything that reads files: `python -m benchmarks.fuzz`.

Each case must end in a clear `InputError`, in a skip or in a valid result, within its
time and its memory. The same seed gives the same files; exit code 1 if one did not.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import functools
import os
import pathlib
import resource
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import rich.console
import rich.table

from benchmarks import fuzz_readers
from benchmarks.fuzz_mutations import mutate
from data_pipeline.errors import InputError
from data_pipeline.workers import Failure, run_tasks

GOOD = ("valid", "partial", "refused")
BAD = ("exception", "hung", "crashed", "memory")
_SECONDS = 30.0
_MEGABYTES = 700  # that one case may add to its process
_ADDRESSES = 24 * 2**30  # bytes; only keeps a runaway from taking the machine down
_SPECIAL = "dataset", "head"  # kinds whose worker loads TensorFlow or JAX


@dataclasses.dataclass(frozen=True)
class Case:
    """One broken file and how to read it.

    Attributes:
      name: of the case, for the report.
      kind: a key of `fuzz_readers.READERS`.
      source: the good file or folder; read as it is where `seed` is None.
      seed: decides the mutation and the reader.
      reader: which of the kind's readers; None lets the seed decide.
    """

    name: str
    kind: str
    source: pathlib.Path
    seed: tuple[int, int] | None
    reader: int | None = None


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a case ended: one of GOOD or BAD, why, and what it took."""

    verdict: str
    detail: str = ""
    seconds: float = 0.0
    megabytes: float = 0.0


def make_cases(
    files: Mapping[str, Sequence[pathlib.Path]], count: int, seed: int
) -> list[Case]:
    """`count` mutants, equally many of every kind."""
    kinds = sorted(files)
    cases = []
    for i in range(count):
        kind = kinds[i % len(kinds)]
        sources = files[kind]
        source = sources[i // len(kinds) % len(sources)]
        cases.append(Case(f"{i}", kind, source, (seed, i)))
    return cases


def good_cases(files: Mapping[str, Sequence[pathlib.Path]]) -> list[Case]:
    """The good files by each of their readers: were they refused, all would be."""
    return [
        Case(f"good {path.name}/{reader}", kind, path, None, reader)
        for kind, paths in sorted(files.items())
        for path in paths
        for reader in range(len(fuzz_readers.READERS[kind]))
    ]


def bad_samples(folder: pathlib.Path) -> list[Case]:
    """The broken files of a folder as they are, by each reader that may meet them."""
    cases = []
    for path in sorted(folder.iterdir()):
        kind = path.suffix[1:].lower()
        for reader in range(len(fuzz_readers.READERS.get(kind, ()))):
            cases.append(Case(f"bad {path.name}/{reader}", kind, path, None, reader))
    return cases


def write_case(case: Case, folder: pathlib.Path) -> tuple[pathlib.Path, str]:
    """Writes a case's broken file; its path and what was done to it."""
    if case.seed is None:
        return case.source, "as it is"
    rng = np.random.default_rng(case.seed)
    target = folder / case.source.name
    if case.source.is_dir():
        shutil.copytree(case.source, target)
        chosen = sorted(path for path in target.rglob("*") if path.is_file())
        path = chosen[int(rng.integers(len(chosen)))]
        if rng.random() < 0.4:  # where most of the content is
            path = max(chosen, key=lambda path: path.stat().st_size)
        if rng.random() < 0.03:
            path.unlink()
            return target, f"no {path.name}"
    else:
        shutil.copyfile(case.source, target)
        path = target
        if case.kind == "boxes":
            shutil.copyfile(case.source.with_name("clip.mp4"), folder / "clip.mp4")
    data, what = mutate(path.suffix.lower(), path.read_bytes(), rng)
    path.write_bytes(data)
    return target, f"{path.name}: {what}"


def run_in_worker(case: Case, beat: Callable[[], None]) -> Outcome:
    """`run_case` in a process that cannot take the machine down."""
    fuzz_readers.warm_up(case.kind)
    resource.setrlimit(resource.RLIMIT_AS, (_ADDRESSES, _ADDRESSES))
    beat()
    return run_case(case)


def run_case(case: Case) -> Outcome:
    """Reads one broken file."""
    with tempfile.TemporaryDirectory(prefix="fuzz_") as folder:
        path, what = write_case(case, pathlib.Path(folder))
        readers = fuzz_readers.READERS[case.kind]
        choice = case.reader
        if choice is None:
            choice = int(np.random.default_rng((*case.seed, 1)).integers(len(readers)))
        outcome = measure(functools.partial(readers[choice], path), what)
    if case.name.startswith("good") and outcome.verdict in ("partial", "refused"):
        return Outcome("exception", f"a good file was {outcome.verdict}")
    return outcome


def measure(read: Callable[[], str], what: str) -> Outcome:
    """Runs a reader and judges how it ended."""
    before, start = _restart_peak(), time.monotonic()
    verdict, detail = "exception", ""
    try:
        verdict, _, detail = read().partition(": ")
    except InputError as error:
        verdict, detail = "refused", error.reason
        if "\n" in str(error):
            verdict, detail = "exception", "a message of several lines"
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{pathlib.Path(where.filename).name}:{where.lineno}"
        detail = f"{type(error).__name__} at {place}: {str(error)[:80]} ({what})"
    seconds = time.monotonic() - start
    megabytes = (_peak() - before) / 2**20
    if verdict in GOOD and megabytes > _MEGABYTES:
        verdict, detail = "memory", f"{megabytes:.0f} MB ({what})"
    elif verdict in GOOD and seconds > _SECONDS:
        verdict, detail = "hung", f"{seconds:.0f} s ({what})"
    return Outcome(verdict, detail, seconds, megabytes)


def _restart_peak() -> int:
    """The memory in use, bytes; the peak counts from here where Linux allows it."""
    try:
        pathlib.Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return _peak()
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def _peak() -> int:
    """The most memory this process had, bytes."""
    try:
        for line in pathlib.Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def run_cases(
    cases: Iterable[Case],
    num_workers: int,
    run: Callable[[Case, Callable[[], None]], Outcome] = run_in_worker,
    seconds: float = _SECONDS,
    on_progress: Callable[[int], None] = lambda done: None,
) -> dict[Case, Outcome]:
    """All cases in processes of their own, of which one may crash or hang."""
    outcomes = {}
    for case, result in run_tasks(run, cases, num_workers, silence_limit=2 * seconds):
        if isinstance(result, Failure):
            verdict = result.reason if result.reason in BAD else "exception"
            result = Outcome(verdict, result.message)
        outcomes[case] = result
        on_progress(len(outcomes))
    return outcomes


def print_table(outcomes: Mapping[Case, Outcome], console) -> None:
    """Outcomes by kind, the reasons of refusals, and every bad case."""
    columns = [*GOOD, *BAD]
    table = rich.table.Table("kind", "cases", *columns, "longest s", "most MB")
    by_kind = collections.defaultdict(list)
    for case, outcome in outcomes.items():
        by_kind[case.kind if case.seed else case.name.split()[0] + " files"].append(
            outcome
        )
    for kind, found in [*sorted(by_kind.items()), ("all", list(outcomes.values()))]:
        counts = collections.Counter(outcome.verdict for outcome in found)
        table.add_row(
            kind,
            str(len(found)),
            *(str(counts[column]) for column in columns),
            f"{max(outcome.seconds for outcome in found):.1f}",
            f"{max(outcome.megabytes for outcome in found):.0f}",
            end_section=kind == max(by_kind),
        )
    console.print(table)
    reasons = collections.Counter(
        o.detail for o in outcomes.values() if o.verdict in ("refused", "partial")
    )
    text = ", ".join(f"{reason} {n}" for reason, n in reasons.most_common())
    console.print(f"Refused or cut short for: {text}", markup=False)
    for case, outcome in outcomes.items():
        if outcome.verdict in BAD:
            line = f"BAD case {case.name} ({case.kind}, {case.source.name}): "
            console.print(line + f"{outcome.verdict} {outcome.detail}", markup=False)


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", nargs="+", help="default: all")
    parser.add_argument("--workers", type=int, default=1, help="processes")
    parser.add_argument("--samples", type=pathlib.Path, help="folder of real media")
    parser.add_argument("--only", help="run this case here, with its traceback")
    arguments = parser.parse_args(argv)
    from benchmarks.fuzz_files import add_samples, make_files

    console = rich.console.Console(width=150)
    with tempfile.TemporaryDirectory(prefix="fuzz_") as folder:
        made = make_files(pathlib.Path(folder))
        files = add_samples(made, arguments.samples) if arguments.samples else made
        cases = good_cases(made) + make_cases(files, arguments.cases, arguments.seed)
        if arguments.samples and (arguments.samples / "bad").is_dir():
            cases += bad_samples(arguments.samples / "bad")
        if arguments.kinds:
            cases = [case for case in cases if case.kind in arguments.kinds]
        if arguments.only:
            (case,) = (case for case in cases if case.name == arguments.only)
            return _show(case, console)
        # Kinds with heavy libraries each in workers of their own.
        outcomes: dict[Case, Outcome] = {}
        for heavy in ("", *_SPECIAL):
            group = [
                c for c in cases if (c.kind if c.kind in _SPECIAL else "") == heavy
            ]
            workers = min(arguments.workers, len(group)) or 1
            outcomes |= run_cases(group, workers)
            console.print(f"{len(outcomes)} of {len(cases)} cases", style="dim")
        print_table(outcomes, console)
    return int(any(outcome.verdict in BAD for outcome in outcomes.values()))


def _show(case: Case, console) -> int:
    with tempfile.TemporaryDirectory(prefix="fuzz_") as folder:
        path, what = write_case(case, pathlib.Path(folder))
        console.print(f"{case.kind} {path}: {what}", markup=False)
        for reader in fuzz_readers.READERS[case.kind]:
            try:
                console.print(f"{reader.__name__}: {reader(path)}", markup=False)
            except InputError as error:
                console.print(f"{reader.__name__}: {error}", markup=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())

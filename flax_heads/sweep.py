"""Several variants of one recipe, one after the other or as commands for a cluster.

Every variant is trained in a workdir of its own and evaluated there; both resume. Those
that differ in fine-tuning alone share one training.
"""

from __future__ import annotations

import contextlib
import json
import pathlib
import shlex
import signal
import subprocess
import sys
from collections.abc import Sequence
from typing import NamedTuple

from configs.variants import VARIANTS
from data_pipeline.errors import InputError
from flax_heads.console import log
from flax_heads.evaluation_markdown import number
from flax_heads.metrics import mean_interval, mean_over_people
from flax_heads.scores import METHODS, METRICS
from flax_heads.train import EXIT_PREEMPTED

_INTERRUPTED = 130  # what the commands answer to Ctrl-C
_TUNING_FLAG = "--config.fine_tune."
_TABLE_METRICS = ("l1", "ssim", "csim_dlib", "nme", "no_face", "frechet_dlib")


class Run(NamedTuple):
    """One line of the table.

    Attributes:
      name: the variant as it was asked for.
      model: folder of its training, which several may share.
      train: command that trains or resumes it.
      evaluate: command that evaluates it or goes on with that.
      report: what the evaluation leaves.
    """

    name: str
    model: pathlib.Path
    train: list[str]
    evaluate: list[str]
    report: pathlib.Path


def plan(
    config: str,
    variants: Sequence[str],
    workdir: str | pathlib.Path,
    train_flags: Sequence[str] = (),
    evaluate_flags: Sequence[str] = (),
) -> list[Run]:
    """What has to be run for each variant.

    Args:
      config: `FILE.py[:ARG]` of the recipe.
      variants: each a name of `configs/variants.py`, `field=value` of the config, or
        several of these joined by commas; "base" is the recipe itself.
      workdir: holds one folder for each.
      train_flags: `--config.field=value` for all of them.
      evaluate_flags: of `flax-heads evaluate`, for all of them.

    Raises:
      InputError: a variant that is neither.
    """
    python = [sys.executable, "-m"]
    shared = [_as_tuning(f) for f in train_flags if f.startswith(_TUNING_FLAG)]
    runs = []
    for name in variants:
        names, fields, tuning = _parts(name)
        label = ",".join([*names, *fields]) or "base"
        model = pathlib.Path(workdir, label.replace("/", "_"))
        recipe = config
        if names:
            recipe += ("," if ":" in config else ":") + ",".join(names)
        folder = pathlib.Path(workdir, name.replace("/", "_"), "evaluation")
        train = [*python, "flax_heads.train", f"--config={recipe}"]
        train += [f"--workdir={model}", *train_flags]
        train += [f"--config.{field}" for field in fields]
        evaluate = [*python, "flax_heads.cli", "evaluate", f"--model={model}"]
        evaluate += [f"--output={folder}", *evaluate_flags]
        # A finished training keeps the fields that it was trained with.
        tuning = [*shared, *tuning]
        if tuning:
            evaluate += ["--fine-tune", *tuning]
        runs.append(Run(name, model, train, evaluate, folder / "report.json"))
    return runs


def run(
    runs: Sequence[Run],
    workdir: str | pathlib.Path,
    log_to: str | pathlib.Path | None = None,
) -> int:
    """Runs the plan; one that fails is named and the others go on.

    Leaves `table.md` in `workdir`, renewed after every run.

    Args:
      runs: from `plan`.
      workdir: the same as there.
      log_to: file to which the programs' output is appended, as in a notebook; by
        default it goes where this process's does.

    Returns:
      the exit code: 0 if all were evaluated, 1 if some failed, `EXIT_PREEMPTED` if it
      was told to stop, after which the same command goes on.
    """
    failed: set[str] = set()
    trained: set[pathlib.Path] = set()
    path = pathlib.Path(workdir, "table.md")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(table(runs), "utf-8")
    for i, one in enumerate(runs, start=1):
        log.info("variant %d of %d: %s", i, len(runs), one.name)
        commands = [one.evaluate] if one.model in trained else [one.train, one.evaluate]
        for command in commands:
            code = _run(command, log_to)
            if code in (EXIT_PREEMPTED, _INTERRUPTED, -signal.SIGTERM, -signal.SIGINT):
                log.warning("told to stop: run again to go on")
                return EXIT_PREEMPTED
            if code:
                log.warning(
                    "%s: exit code %d of: %s", one.name, code, shlex.join(command)
                )
                failed.add(one.name)
                break
        else:
            trained.add(one.model)
        path.write_text(table(runs, failed), "utf-8")
    log.info("see %s", path)
    return 1 if failed else 0


def _run(command: Sequence[str], log_to: str | pathlib.Path | None) -> int:
    """Runs a command to its end, whatever the signal: training saves before it ends.

    SIGTERM is passed on; Ctrl-C comes to both from the terminal.
    """
    process, told = None, False

    def stop(*_):
        nonlocal told
        told = True
        if process:
            process.terminate()

    with open(log_to, "ab") if log_to else contextlib.nullcontext() as output:
        handlers = {signal.SIGTERM: stop, signal.SIGINT: lambda *_: None}
        before = {number: signal.signal(number, h) for number, h in handlers.items()}
        try:
            process = subprocess.Popen(command, stdout=output, stderr=output)
            if told:  # while it was being started
                process.terminate()
            return process.wait()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def jobs(runs: Sequence[Run]) -> list[str]:
    """A line of shell for each model: its training, and then its evaluations.

    Lines do not depend on each other; variants of fine-tuning alone share a model.
    """
    by_model: dict[pathlib.Path, list[Run]] = {}
    for one in runs:
        by_model.setdefault(one.model, []).append(one)
    return [
        " && ".join(map(shlex.join, [same[0].train, *(r.evaluate for r in same)]))
        for same in by_model.values()
    ]


def table(runs: Sequence[Run], failed: set[str] = frozenset()) -> str:
    """Markdown: each variant's metrics, as far as it has been evaluated.

    The last column compares with the first variant, video by video: the mean difference
    in L1, and its 95 % interval over people.
    """
    titles = [METRICS[m][0] + (" ↑" if METRICS[m][1] else " ↓") for m in _TABLE_METRICS]
    titles.append(f"L1 less that of {runs[0].name}" if runs else "")
    first: dict[tuple, dict] = {}
    lines = ["| variant | T | method | " + " | ".join(titles) + " |"]
    lines.append("|---" * (len(titles) + 3) + "|")
    for one in runs:
        if one.name in failed or not one.report.exists():
            state = "failed" if one.name in failed else "not run"
            lines.append(f"| {one.name} | | {state} |" + " |" * len(titles))
            continue
        report = json.loads(one.report.read_text())
        scores = {(r["shots"], r["method"], r["video"]): r for r in report["per_video"]}
        if one is runs[0]:
            first = scores
        for row in report["results"]:
            cells = [number(m, row.get(m)) for m in _TABLE_METRICS]
            cells.append(_difference(scores, first, row["shots"], row["method"]))
            start = f"| {one.name} | {row['shots']} | {METHODS[row['method']]} | "
            lines.append(start + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _difference(scores: dict, others: dict, shots: int, method: str) -> str:
    """Of the videos that both have; "-" where there is nothing to compare."""
    both = [k for k in scores if k[:2] == (shots, method) and k in others]
    if scores is others or not both:
        return "-"
    differences = [scores[k]["l1"] - others[k]["l1"] for k in both]
    if not any(differences):  # baselines: the same frames
        return "-"
    people = [scores[k]["identity"] for k in both]
    text = f"{mean_over_people(differences, people):+.4f}"
    interval = mean_interval(differences, people)
    return f"{text} ({interval[0]:+.4f} to {interval[1]:+.4f})" if interval else text


def _as_tuning(flag: str) -> str:
    """`--config.fine_tune.FIELD=VALUE` as `evaluate --fine-tune` takes it."""
    name, _, value = flag.removeprefix(_TUNING_FLAG).partition("=")
    if value.lower() in ("true", "false", ""):  # as flags may be written
        value = str(value.lower() != "false")
    return f"{name}={value}"


def _parts(variant: str) -> tuple[list[str], list[str], list[str]]:
    """(names for training, fields for training, fields for fine-tuning)."""
    names, fields, tuning = [], [], []
    for part in variant.split(","):
        if part == "base":
            continue
        if part in VARIANTS:
            values = VARIANTS[part]
            if all(field.startswith("fine_tune.") for field in values):
                tuning += [f"{f.split('.', 1)[1]}={v!r}" for f, v in values.items()]
            else:
                names.append(part)
        elif "=" in part and part.startswith("fine_tune."):
            tuning.append(part.split(".", 1)[1])
        elif "=" in part:
            fields.append(part)
        else:
            raise InputError(
                f"{part!r}: expected 'base', field=value or one of "
                f"{', '.join(VARIANTS)}",
                reason="config",
            )
    return names, fields, tuning

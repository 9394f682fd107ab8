"""The steps of a run on disk: which are there, which are intact, which is best.

A step is one folder, `checkpoints/<step>`, that is whole or absent, with the items

    state    the arrays, in Orbax's format;
    config   the resolved config;
    code     the version of the code that wrote it;
    metrics  what the held-out check measured at this step, if it ran;
    digests  a sha256 of every leaf of the state and of each of the others.

What is read is held against its digests. A damaged step is passed over for the one
before it. Steps of older code have no digests and are read as they are.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import json
import logging
import pathlib
import re
import sys
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from data_pipeline.errors import InputError
from flax_heads import integrity
from flax_heads.console import log

BEST_BY = "held_out/l1"  # the smaller the better
# What a file that is gone or cut answers; other errors are the storage's.
_DAMAGE = (None, errno.ENOENT, errno.ENOTDIR, errno.EISDIR)
# TensorStore ends its messages with [key='value']: the spec alone fills a page.
_NOTES = re.compile(r" \[[\w ]+='")


class Damaged(Exception):
    """A step that cannot be read, or is not what was written."""


def folder_of(workdir: str | pathlib.Path) -> pathlib.Path:
    return pathlib.Path(workdir).resolve() / "checkpoints"


def newest_first(folder: pathlib.Path) -> list[int]:
    """Finished steps: a folder gets its number as its name when all is written."""
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    return sorted((int(name) for name in names if name.isdigit()), reverse=True)


def last_good(workdir: str | pathlib.Path) -> str:
    """For messages: what a run would resume from."""
    folder = folder_of(workdir)
    steps = newest_first(folder)
    return (
        f"the last good one is {folder / str(steps[0])}" if steps else "there is none"
    )


def best(folder: pathlib.Path) -> int | None:
    """The step with the smallest held-out L1 of those that have one."""
    measured = {}
    for step in newest_first(folder):
        with contextlib.suppress(Damaged):
            if metrics := read_metrics(folder / str(step)):
                measured[step] = metrics[BEST_BY]
    return min(measured, key=measured.get, default=None)


def read_newest(
    folder: pathlib.Path,
    steps: list[int],
    read_state: Callable[[pathlib.Path, dict], Any],
) -> tuple[int, dict, Any]:
    """(step, config, state) of the first intact one of `steps`.

    Each one passed over is named in a warning.

    Args:
      folder: with the steps.
      steps: to try, in this order.
      read_state: (folder of a step, its config) -> its state or a part of it.

    Raises:
      InputError: all are damaged, or what `read_state` raises.
    """
    damage = []
    for step in steps:
        with _one_complaint_is_enough():
            try:
                config, state = _read_intact(folder / str(step), read_state)
                problem = None
            except Damaged as error:
                problem = str(error)
        if _on_all_processes(problem is None):
            for line in damage:
                log.warning("%s; reading step %d instead", line, step)
            return step, config, state
        silence_late_threads()
        damage.append(f"{folder / str(step)} is damaged ({problem or 'elsewhere'})")
    raise InputError(
        f"{'; '.join(damage)}; no intact one is left: restore it from a copy, or "
        "start again in a new --workdir",
        reason="damaged",
    )


def record(config: dict, code: dict, metrics: dict | None) -> dict[str, str]:
    """What the digests of a step are made of, beside its state."""
    items = {"config": config, "code": code, "metrics": metrics}
    return {name: json.dumps(value, sort_keys=True) for name, value in items.items()}


def read_json(step_folder: pathlib.Path, item: str) -> Any:
    return json.loads((step_folder / item / "metadata").read_text())


def read_metrics(step_folder: pathlib.Path) -> dict[str, float] | None:
    """What was measured at a step, if anything. Raises Damaged."""
    path = step_folder / "metrics" / "metrics"
    if not path.exists():
        return None
    try:
        metrics = json.loads(path.read_text())
        float(metrics[BEST_BY])
        return metrics
    except (ValueError, KeyError, TypeError) as error:
        raise Damaged(f"metrics: {reason(error)}") from error


def set_aside(folder: pathlib.Path, step: int) -> None:
    """Moves a damaged step out of the way, to `damaged_checkpoints` beside `folder`."""
    if jax.process_index() == 0:
        _move_aside(folder, step)
    _on_all_processes(True)  # nobody looks before it is gone


def set_aside_damaged_metrics(folder: pathlib.Path) -> None:
    """`set_aside` of every step whose metrics are damaged: Orbax would open none.

    The first process alone looks: another might look after the step has gone.
    """
    if jax.process_index() == 0:
        for step in newest_first(folder):
            try:
                read_metrics(folder / str(step))
            except Damaged as damage:
                log.warning("%s/%d is damaged (%s)", folder, step, damage)
                _move_aside(folder, step)
    _on_all_processes(True)


def _move_aside(folder, step):
    aside = folder.parent / "damaged_checkpoints"
    aside.mkdir(exist_ok=True)
    names = [aside / f"{step}{tail}" for tail in ("", *(f".{i}" for i in range(99)))]
    (folder / str(step)).rename(next(n for n in names if not n.exists()))


def reason(error: Exception) -> str:
    """What went wrong, in a part of a line: the readers' messages may fill a page."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    line = " ".join(str(error).split()) or type(error).__name__
    line = _NOTES.split(line)[0]
    return line if len(line) <= 160 else f"{line[:60]} ... {line[-90:]}"


def _read_intact(step_folder: pathlib.Path, read_state: Callable) -> tuple[dict, Any]:
    try:
        config, metrics = read_json(step_folder, "config"), read_metrics(step_folder)
        has_digests = (step_folder / "digests").exists()
        digests = read_json(step_folder, "digests") if has_digests else {}
        if has_digests:
            code = read_json(step_folder, "code")
            _compare(record(config, code, metrics), digests)
        state = read_state(step_folder, config)
        if has_digests:
            _compare({"state": state}, digests)
        else:
            log.info(
                "%s has no digests: nothing says whether it is intact", step_folder
            )
        return config, state
    except (InputError, Damaged, jax.errors.JaxRuntimeError):
        raise  # the last: of a device, out of memory for example
    except OSError as error:
        if error.errno in _DAMAGE:
            raise Damaged(reason(error)) from error
        raise InputError(
            f"{step_folder}: cannot be read at the moment ({reason(error)}); nothing is "
            "changed, run again when the storage answers",
            reason="unreadable",
        ) from error
    except Exception as error:  # whatever the many readers of a broken file raise
        raise Damaged(reason(error)) from error


def _compare(tree: Any, digests: dict) -> None:
    if bad := integrity.differing(tree, digests):
        more = f" and {len(bad) - 1} more" if len(bad) > 1 else ""
        raise Damaged(f"{bad[0]}{more} is not what was saved")


@contextlib.contextmanager
def _one_complaint_is_enough() -> Iterator[None]:
    """Lets what is dropped inside be dropped silently.

    When an array cannot be read, Orbax abandons its readers of the others. Each would
    say so at length when it is collected, in whatever runs then.
    """
    hook, asyncio_log = sys.unraisablehook, logging.getLogger("asyncio")
    level = asyncio_log.level
    sys.unraisablehook = lambda _: None
    asyncio_log.setLevel(logging.CRITICAL + 1)
    try:
        yield
        gc.collect()
    finally:
        sys.unraisablehook = hook
        asyncio_log.setLevel(level)


def silence_late_threads() -> None:
    """From now on, says nothing of threads that were abandoned and end some time later.

    To be called when reading or writing has failed: TensorStore's threads go on, and
    find that nobody waits for them any more.
    """
    hook = sys.unraisablehook

    def others(unraisable):
        if str(unraisable.exc_value) != "Event loop is closed":
            hook(unraisable)

    sys.unraisablehook = others


def as_first_process(steps: list[int]) -> list[int]:
    """`steps` of process 0 on every process: a network drive may list others to some."""
    if jax.process_count() == 1:
        return steps
    count = multihost_utils.broadcast_one_to_all(np.int32(len(steps)))
    listed = np.zeros(count, np.int32)
    if jax.process_index() == 0:
        listed[:] = steps
    return multihost_utils.broadcast_one_to_all(listed).tolist()


def _on_all_processes(fine: bool) -> bool:
    """Whether `fine` holds on every process; waits for them."""
    if jax.process_count() == 1:
        return fine
    return bool(multihost_utils.process_allgather(np.array(fine)).all())

"""What a person at the terminal sees: log lines and progress bars, in one place."""

from __future__ import annotations

import contextlib
import logging
import os
import pathlib
from collections.abc import Callable, Iterator

import jax
from absl import logging as absl_logging
from rich.console import Console
from rich.logging import RichHandler
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from flax_heads import parallel

log = logging.getLogger("flax_heads")

_console = Console(stderr=True, soft_wrap=True)


def set_up(distributed: str | None = None, independent: bool = False) -> None:
    """What every command does first: logging, and a cache of compiled programs.

    Args:
      distributed: how this process finds the others; only the first of them logs.
      independent: whether each has a share of its own; for both see
        `parallel.join_processes`.
    """
    _set_up_logging()
    _set_up_jax()
    if distributed:
        parallel.join_processes(distributed, independent)
        if jax.process_index():
            log.setLevel(logging.WARNING)


def _set_up_logging() -> None:
    """Shows this project's log lines; of its libraries only errors."""
    absl_logging.set_verbosity(absl_logging.ERROR)
    if not log.handlers:
        handler = RichHandler(console=_console, show_path=False, show_level=False)
        log.addHandler(handler)
        log.setLevel(logging.INFO)
        log.propagate = False


def _set_up_jax() -> None:
    """Keeps compiled programs between runs, in the user's cache folder."""
    if jax.config.jax_compilation_cache_dir:  # the user's own choice
        return
    cache = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    folder = pathlib.Path(cache) / "flax_heads" / "xla"
    with contextlib.suppress(OSError):  # a read-only home only costs the cache
        folder.mkdir(parents=True, exist_ok=True)
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 1)


@contextlib.contextmanager
def progress(
    description: str, total: int | None, completed: int = 0
) -> Iterator[Callable[[int], None]]:
    """A progress bar with an ETA; yields the function that sets how much is done."""
    with _bar() as bar:
        task = bar.add_task(description, total=total, completed=completed)
        yield lambda done: bar.update(task, completed=done)


@contextlib.contextmanager
def staged_progress() -> Iterator[Callable[[str, int, int | None], None]]:
    """One bar per stage, added when the stage reports first: show(stage, done, total)."""
    with _bar() as bar:
        tasks = {}

        def show(stage: str, done: int, total: int | None) -> None:
            if stage not in tasks:
                tasks[stage] = bar.add_task(stage, total=total)
            bar.update(tasks[stage], completed=done)

        yield show


def _bar() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=_console,
        disable=not _console.is_terminal,  # in a file, log lines say how far it is
    )

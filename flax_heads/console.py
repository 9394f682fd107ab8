"""What a person at the terminal sees: log lines and progress bars, in one place."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator

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

log = logging.getLogger("flax_heads")

_console = Console(stderr=True, soft_wrap=True)


def set_up_logging() -> None:
    """Shows this project's log lines; of its libraries' only warnings and errors."""
    absl_logging.set_verbosity(absl_logging.WARNING)
    if not log.handlers:
        handler = RichHandler(console=_console, show_path=False, show_level=False)
        log.addHandler(handler)
        log.setLevel(logging.INFO)
        log.propagate = False


@contextlib.contextmanager
def progress(
    description: str, total: int | None, completed: int = 0
) -> Iterator[Callable[[int], None]]:
    """A progress bar with an ETA; yields the function that sets how much is done."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=_console) as bar:
        task = bar.add_task(description, total=total, completed=completed)
        yield lambda done: bar.update(task, completed=done)

"""From a folder of videos to a dataset: in parallel, resumable, with a report.

A work folder is filled with one file per finished video (`filling`); when all are there,
TFDS packs them. A killed run goes on where it stopped.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import io
import logging
import os
import pathlib
import shutil
import sys
import time
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import rich.console
import rich.progress

from data_pipeline import filling, shards, work_files
from data_pipeline.errors import InputError
from data_pipeline.finished import NAME, WORK, complete, find_datasets, full_report
from data_pipeline.images import Limits
from data_pipeline.raster import RasterStyle
from data_pipeline.records import Counts, Settings
from data_pipeline.report import make_report, print_report, write_report
from data_pipeline.voxceleb import find_videos
from data_pipeline.workers import default_workers

_LOST = {"crashed", "hung"}  # with their process: no work file is left
_SHOWN = 20  # broken files that are printed; the report has more


def prepare(
    source: str | os.PathLike,
    layout: str,
    data_dir: str | os.PathLike,
    size: int = 256,
    frames_per_video: int = 64,
    workers: int | None = None,
    runner: str | None = None,
    test_fraction: float = 0.1,
    test_identities: Collection[str] = (),
    style: RasterStyle | None = None,
    limits: Limits | None = None,
    beam_options: Sequence[str] = (),
    share: tuple[int, int] | None = None,
    console: rich.console.Console | None = None,
) -> dict[str, Any]:
    """Prepares a corpus; the same call again resumes it, or finds it finished.

    Args:
      source, layout, test_fraction, test_identities: see `voxceleb.find_videos`.
      data_dir: where the dataset goes; `report.json` lies there too.
      size, frames_per_video, style, limits: see `records.Settings`.
      workers: processes; None takes all cores, 0 works in this process.
      runner: a Beam runner, e.g. `FlinkRunner`, whose workers prepare the videos
        instead; they must see `source` and `data_dir` under the same paths.
      beam_options: of it, as `--name=value`.
      share: (i, n) prepares every n-th video from the i-th on and packs nothing: for n
        machines at once, of which any then runs without it.
      console: where progress and the report are printed.

    Returns:
      The report, as in `report.json`.

    Raises:
      InputError: no usable source, no frame with a face in it, or a `data_dir` that
        holds another dataset or in which another process is at work; `beam_options`
        without a runner.
    """
    if beam_options and not runner:
        raise InputError(
            "--beam-options are for a Beam runner: name it by --runner", reason="usage"
        )
    console = console or rich.console.Console(file=sys.stdout)
    data_dir = pathlib.Path(data_dir)
    settings = Settings(
        layout,
        size,
        frames_per_video,
        style or RasterStyle(),
        limits=limits or Limits(),
    )
    finished = find_datasets(data_dir)
    try:
        videos = find_videos(source, layout, test_fraction, test_identities)
    except InputError as error:
        if not finished or error.reason != "missing":
            raise
        videos = None  # the source is gone, as it may be by now
    if finished:
        return complete(finished, source, data_dir, settings, videos, console)
    start, work = time.monotonic(), data_dir / WORK
    if runner:
        fill = functools.partial(
            filling.fill_by_beam, runner=runner, options=beam_options
        )
    else:
        num_workers = default_workers() if workers is None else workers
        fill = functools.partial(filling.fill, num_workers=num_workers)
    if share:
        part = videos[share[0] :: share[1]]
        counts = _fill(part, settings, work, fill, console)
        report = make_report(part, counts)
        print_report(report | {"seconds": time.monotonic() - start}, console)
        console.print(
            f"Share {share[0]}/{share[1]} is finished. When all are, the same command "
            "without --share packs them."
        )
        return report
    with work_files.alone(data_dir):
        if finished := find_datasets(data_dir):  # by another one, meanwhile
            return complete(finished, source, data_dir, settings, videos, console)
        counts = _fill(videos, settings, work, fill, console)
        if not runner and any(
            _LOST & counts[video.key].files.keys() for video in videos
        ):
            # For want of memory, or suspended: fewer at a time may come through.
            console.print(
                "Some were lost with their processes: once more, fewer at once."
            )
            fill = functools.partial(filling.fill, num_workers=max(1, num_workers // 4))
            counts = _fill_missing(videos, settings, work, fill, console)
        _pack(videos, counts, settings, data_dir, work, console)
        seconds = round(time.monotonic() - start, 1)
        report = full_report(source, videos, counts, settings) | {"seconds": seconds}
        write_report(data_dir / "report.json", report)
        work_files.remove_all(work)
    print_report(report, console)
    if not any(split["frames"] for split in report["splits"].values()):
        raise InputError(
            f"{source}: no frame of {len(videos)} videos was kept; the reasons are in "
            f"{data_dir / 'report.json'}",
            reason="no_frames",
        )
    return report


def _fill(videos, settings, work, fill, console) -> dict[str, Counts]:
    """Makes the work files that are missing; returns the counts of all."""
    console.print(
        f"{len(videos)} videos of {len({v.identity for v in videos})} people. Finished "
        f"ones are kept in {work}: after an interruption, run the same command again.",
        markup=False,
        soft_wrap=True,
    )
    return _fill_missing(videos, settings, work, fill, console)


def _fill_missing(videos, settings, work, fill, console) -> dict[str, Counts]:
    """As `_fill`, without a word on what there is to do."""
    tasks, counts = [], {}
    for video in videos:
        path = work_files.work_file(work, video, settings)
        if before := work_files.load_counts(path):
            counts[video.key] = before
        else:
            tasks.append((video, path))
    if counts:
        console.print(f"{len(counts)} of them were finished before.")
    if tasks:
        results = fill(tasks, settings)
        counts |= _show(results, len(counts), len(videos), console)
    return counts


def _pack(videos, counts, settings, data_dir, work, console) -> None:
    """Packs the work files into the dataset."""
    for left_over in data_dir.glob(f"{NAME}/*/*incomplete*"):
        shutil.rmtree(left_over, ignore_errors=True)  # of a run killed while packing
    kept = [video for video in videos if counts[video.key].kept]
    if kept:
        # TFDS replaces `import` while it loads; the progress bar's thread, which imports
        # as it draws, must not run then.
        with _without_chatter():
            importlib.import_module("data_pipeline.talking_heads_dataset_builder")
        with _progress(console) as progress:
            bar = progress.add_task("Packing", total=len(kept))
            advance = functools.partial(progress.advance, bar)
            examples = {
                split: _load_examples(
                    [
                        work_files.work_file(work, v, settings)
                        for v in kept
                        if v.split == split
                    ],
                    advance,
                )
                for split in ("train", "test")
                if any(v.split == split for v in kept)
            }
            _build(data_dir, settings, examples=examples)


def _show(results, resumed, total, console) -> dict[str, Counts]:
    """Collects what `filling` yields, with a bar and the first broken files."""
    counts, shown = {}, 0
    with _progress(console) as progress:
        bar = progress.add_task("Preparing", total=total, completed=resumed)
        for video, result in results:
            for problem in result.problems[: max(0, _SHOWN - shown)]:
                progress.console.print(f"broken file: {problem}", markup=False)
            shown += len(result.problems)
            counts[video.key] = result
            progress.advance(bar)
    return counts


def _load_examples(paths, advance) -> Iterator[tuple[str, dict[str, Any]]]:
    for path in paths:
        try:
            example = work_files.load_example(path)
        except Exception as error:  # whatever a damaged file looks like
            path.unlink(missing_ok=True)
            raise InputError(
                f"{path}: was damaged ({error}) and is removed; run the same command "
                "again to make it anew",
                reason="unreadable",
            ) from error
        yield example["video"], example
        advance()


def _build(data_dir, settings, **kwargs) -> None:
    """Runs the TFDS builder, without its chatter."""
    downloads = data_dir / "downloads"  # TFDS makes it, though it downloads nothing
    had_downloads = downloads.exists()
    try:
        with _without_chatter():
            import tensorflow_datasets as tfds

            from data_pipeline import prepared
            from data_pipeline.talking_heads_dataset_builder import (
                HeadsConfig,
                TalkingHeads,
            )

            tfds.disable_progress_bar()
            name = f"{settings.layout}_{settings.size}"
            config = HeadsConfig(name=name, settings=settings, **kwargs)
            with contextlib.redirect_stdout(io.StringIO()):
                builder = TalkingHeads(data_dir=data_dir, config=config)
                builder.download_and_prepare()
            prepared.write_indexes(builder.data_dir)
            shards.write_manifest(pathlib.Path(builder.data_dir))
    except (OSError, RuntimeError) as error:  # the latter is array_record's
        raise InputError(
            f"{data_dir}: the dataset cannot be written ({error}); make room and run "
            "the same command again"
        ) from error
    finally:
        if not had_downloads:
            shutil.rmtree(downloads, ignore_errors=True)


@contextlib.contextmanager
def _without_chatter():
    """Keeps the libraries' log lines below errors to themselves."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(disabled)


def _progress(console) -> rich.progress.Progress:
    return rich.progress.Progress(
        rich.progress.TextColumn("{task.description}"),
        rich.progress.BarColumn(),
        rich.progress.MofNCompleteColumn(),
        rich.progress.TimeElapsedColumn(),
        rich.progress.TimeRemainingColumn(),
        console=console,
    )

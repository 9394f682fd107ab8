"""From a folder of videos to a dataset: in parallel, resumable, with a report.

Our own processes fill a work folder with one file per finished video; when all are
there, TFDS packs them. A killed run goes on where it stopped.
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

from data_pipeline import safe_files, shards, work_files
from data_pipeline.errors import InputError
from data_pipeline.images import Limits
from data_pipeline.raster import RasterStyle
from data_pipeline.records import Counts, Settings, prepare_video
from data_pipeline.report import make_report, print_report, write_report
from data_pipeline.voxceleb import find_videos
from data_pipeline.workers import Failure, default_workers, run_tasks

_NAME = "talking_heads"
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
    console: rich.console.Console | None = None,
) -> dict[str, Any]:
    """Prepares a corpus; the same call again resumes it, or finds it finished.

    Args:
      source, layout, test_fraction, test_identities: see `voxceleb.find_videos`.
      data_dir: where the dataset goes; `report.json` lies there too.
      size, frames_per_video, style, limits: see `records.Settings`.
      workers: processes; None takes all cores, 0 works in this process.
      runner: a Beam runner, e.g. `DirectRunner`, that then does all the work, without
        resuming.
      beam_options: further options for it.
      console: where progress and the report are printed.

    Returns:
      The report, as in `report.json`.

    Raises:
      InputError: no usable source, no frame with a face in it, or a `data_dir` that
        holds another dataset.
    """
    console = console or rich.console.Console(file=sys.stdout)
    data_dir = pathlib.Path(data_dir)
    settings = Settings(
        layout,
        size,
        frames_per_video,
        style or RasterStyle(),
        limits=limits or Limits(),
    )
    if finished := find_datasets(data_dir):
        return _already_there(finished, data_dir, settings, console)
    videos = find_videos(source, layout, test_fraction, test_identities)
    for left_over in data_dir.glob(f"{_NAME}/*/*incomplete*"):
        shutil.rmtree(left_over, ignore_errors=True)  # of a run killed while packing
    start = time.monotonic()
    if runner is None:
        report = _prepare_here(videos, settings, data_dir, workers, console)
    else:
        report = _prepare_with_beam(
            *(source, settings, data_dir, runner, beam_options),
            test_fraction=test_fraction,
            test_identities=test_identities,
        )
    report = {
        "source": str(source),
        "settings": settings.to_dict(),
        "seconds": round(time.monotonic() - start, 1),
        **report,
    }
    write_report(data_dir / "report.json", report)
    print_report(report, console)
    if not any(split["frames"] for split in report["splits"].values()):
        raise InputError(
            f"{source}: no frame of {len(videos)} videos was kept; the reasons are in "
            f"{data_dir / 'report.json'}",
            reason="no_frames",
        )
    return report


def find_datasets(data_dir: pathlib.Path) -> list[pathlib.Path]:
    """The folders of the finished datasets in `data_dir`, which may itself be one."""
    infos = [data_dir / "dataset_info.json"]
    infos += data_dir.glob(f"{_NAME}/*/*/dataset_info.json")
    return sorted(
        info.parent
        for info in infos
        if info.is_file() and "incomplete" not in info.parent.name
    )


def _already_there(finished, data_dir, settings, console) -> dict[str, Any]:
    """Nothing to do but to complete it; or the wrong place for these settings."""
    try:
        metadata = safe_files.read_json(finished[0] / "metadata.json")
        same = metadata["settings"] == settings.to_dict()
    except (OSError, ValueError, KeyError, TypeError):
        same = False
    if not same:
        raise InputError(
            f"{finished[0]}: holds a dataset that was prepared with other settings; "
            "name another data_dir or delete this one",
            reason="other_settings",
        )
    if shards.read_manifest(finished[0]) is None:  # killed, or an older version's
        with contextlib.suppress(OSError):  # read-only
            shards.write_manifest(finished[0])
    console.print(f"{finished[0]}: already prepared, nothing to do.")
    with contextlib.suppress(OSError, ValueError):
        return safe_files.read_json(data_dir / "report.json")
    return {"splits": {}, "settings": settings.to_dict()}


def _prepare_here(videos, settings, data_dir, num_workers, console) -> dict[str, Any]:
    """Fills the work folder with our own processes, then packs it."""
    work = data_dir / "work"
    console.print(
        f"{len(videos)} videos of {len({v.identity for v in videos})} people. Finished "
        f"ones are kept in {work}: after an interruption, run the same command again."
    )
    finished, counts = {}, {}
    for video in videos:
        finished[video.key] = work_files.work_file(work, video, settings)
        if before := work_files.load_counts(finished[video.key]):
            counts[video.key] = before
    if counts:
        console.print(f"{len(counts)} of them were finished before.")
    tasks = [(v, finished[v.key]) for v in videos if v.key not in counts]
    counts |= _fill(tasks, settings, num_workers, len(counts), console)
    report = make_report(videos, counts)
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
                    [finished[v.key] for v in kept if v.split == split], advance
                )
                for split in ("train", "test")
                if any(v.split == split for v in kept)
            }
            _build(data_dir, settings, examples=examples)
    shutil.rmtree(work, ignore_errors=True)
    return report


def _fill(tasks, settings, num_workers, resumed, console) -> dict[str, Counts]:
    """Prepares the videos that are not finished; one broken file costs itself."""
    if num_workers is None:
        num_workers = default_workers()
    num_workers = min(num_workers, len(tasks))
    counts, shown = {}, 0
    work = functools.partial(_work, settings=settings)
    with _progress(console) as progress:
        bar = progress.add_task(
            "Preparing", total=len(tasks) + resumed, completed=resumed
        )
        for (video, _), result in run_tasks(work, tasks, num_workers):
            if isinstance(result, InputError):
                raise result
            if isinstance(result, Failure):
                error = InputError(
                    f"{video.utterances[0].parent}: {result.message}", result.reason
                )
                result = Counts()
                result.broken(error)
            for problem in result.problems[: max(0, _SHOWN - shown)]:
                progress.console.print(f"broken file: {problem}", markup=False)
            shown += len(result.problems)
            counts[video.key] = result
            progress.advance(bar)
    return counts


def _work(task, beat, settings: Settings) -> Counts | InputError:
    """A worker's share: one video, from its files to its work file."""
    video, path = task
    example, counts = prepare_video(video, settings, beat)
    try:
        work_files.save_work(path, example, counts)
    except OSError as error:  # a full disk must stop the run, not drop the video
        return InputError(f"{path}: cannot be written ({error}); make room")
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


def _build(data_dir, settings, download_config=None, **kwargs) -> None:
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
                builder.download_and_prepare(download_config=download_config)
            prepared.write_indexes(builder.data_dir)
            shards.write_manifest(pathlib.Path(builder.data_dir))
    except OSError as error:
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


def _prepare_with_beam(
    source, settings, data_dir, runner, beam_options, **held_out
) -> dict[str, Any]:
    """Leaves everything to the TFDS builder on a Beam runner."""
    import tensorflow_datasets as tfds
    from apache_beam.options.pipeline_options import PipelineOptions

    from data_pipeline import prepared

    options = PipelineOptions([f"--runner={runner}", *beam_options])
    download_config = tfds.download.DownloadConfig(beam_options=options)
    _build(data_dir, settings, download_config, source=str(source), **held_out)
    splits = {}
    for split in prepared.split_names(data_dir):
        lengths = prepared.open_split(data_dir, split).frames_per_video
        splits[split] = {
            "videos": len(lengths),
            "frames": int(lengths.sum()),
        }
    return {"splits": splits}


def _progress(console) -> rich.progress.Progress:
    return rich.progress.Progress(
        rich.progress.TextColumn("{task.description}"),
        rich.progress.BarColumn(),
        rich.progress.MofNCompleteColumn(),
        rich.progress.TimeElapsedColumn(),
        rich.progress.TimeRemainingColumn(),
        console=console,
    )

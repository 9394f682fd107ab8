"""The long part of preparing: one work file for every video, by whatever workers.

A video whose work file is there is finished, so any way of filling resumes any other:
this machine's processes, a share of the videos on each of several machines, or a Beam
runner's workers, where source and work folder lie on storage that all of them see.
"""

from __future__ import annotations

import functools
import pathlib
from collections.abc import Callable, Iterable, Iterator, Sequence

from data_pipeline import work_files
from data_pipeline.errors import InputError
from data_pipeline.images import STORAGE
from data_pipeline.records import Counts, Settings, prepare_video
from data_pipeline.voxceleb import Video
from data_pipeline.workers import Failure, run_tasks

Task = tuple[Video, pathlib.Path]  # a video and its work file
_BLOCK = 2**22  # bytes read at once
_BATCH = 8  # videos that one of Beam's workers does with one process


def fill(
    tasks: Sequence[Task], settings: Settings, num_workers: int
) -> Iterator[tuple[Video, Counts]]:
    """Prepares videos in processes of this machine; one broken file costs itself.

    Raises:
      InputError: a work file cannot be written, or nothing here can be read: a package is
        missing, or the storage does not answer.
    """
    work = functools.partial(_prepare_one, settings=settings)
    for (video, _), result in run_tasks(work, tasks, min(num_workers, len(tasks))):
        if isinstance(result, InputError):
            raise result
        yield video, _lost(video, result) if isinstance(result, Failure) else result


def fill_by_beam(
    tasks: Sequence[Task],
    settings: Settings,
    runner: str,
    options: Iterable[str] = (),
) -> Iterator[tuple[Video, Counts]]:
    """Prepares videos on a Beam runner; yields when it has ended.

    Each of its workers lets a process of its own touch the media, so that a decoder that
    crashes or hangs costs one video here as well, not the worker.

    Raises:
      InputError: the runner failed; what it finished is kept.
    """
    import apache_beam as beam
    from apache_beam.options.pipeline_options import PipelineOptions

    batches = [tasks[i : i + _BATCH] for i in range(0, len(tasks), _BATCH)]
    try:
        with beam.Pipeline(
            options=PipelineOptions([f"--runner={runner}", *options])
        ) as pipeline:
            _ = (
                pipeline
                | beam.Create(batches)
                | beam.Reshuffle()
                | beam.Map(_prepare_batch, settings=settings)
            )
    except Exception as error:  # of any runner
        raise InputError(
            f"Beam's {runner} failed ({type(error).__name__}: {error}); finished videos "
            "are kept, run the same command again",
            reason="runner",
        ) from error
    for video, path in tasks:
        missing = Failure("failed", f"the runner left no {path}")
        yield video, work_files.load_counts(path) or _lost(video, missing)


def _prepare_batch(batch: Sequence[Task], settings: Settings) -> None:
    """What a worker of Beam does."""
    paths = dict(batch)
    for video, counts in fill(batch, settings, num_workers=1):
        if not paths[video].exists():  # lost with its process; do not try for ever
            work_files.save_work(paths[video], None, counts)


def _prepare_one(
    task: Task, beat: Callable[[], None], settings: Settings
) -> Counts | InputError:
    """From a video's files to its work file."""
    video, path = task
    try:
        example, counts = prepare_video(video, settings, beat)
        if counts.files["unreadable"] or counts.files["truncated"]:
            # To a decoder, storage that does not answer looks like a damaged file.
            _read_through(video, beat)
            example, counts = prepare_video(video, settings, beat)
    except InputError as error:  # dlib or its models are missing
        return error
    # Of this machine, not of the video: another time, or another machine, can read it.
    if counts.files["missing_package"] or counts.files["storage"]:
        return InputError(f"{counts.problems[-1]} Finished videos are kept.", "machine")
    try:
        work_files.save_work(path, example, counts)
    except OSError as error:  # a full disk must stop the run, not drop the video
        return InputError(f"{path}: cannot be written ({error}); make room")
    return counts


def _read_through(video: Video, beat: Callable[[], None]) -> None:
    """Raises InputError if the storage does not give a video's files."""
    for path in (*video.utterances, *video.boxes):
        try:
            with open(path, "rb") as file:
                while file.read(_BLOCK):
                    beat()
        except OSError as error:
            if error.errno in STORAGE:
                raise InputError(
                    f"{path}: {error.strerror} while reading; finished videos are kept. "
                    "If it stays so, restore the file or take it out of the corpus",
                    "machine",
                ) from error


def _lost(video: Video, failure: Failure) -> Counts:
    counts = Counts()
    where = video.utterances[0].parent
    counts.broken(InputError(f"{where}: {failure.message}", failure.reason))
    return counts

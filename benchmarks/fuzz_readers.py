"""Each kind of file, read as the programs read it. Runs in the fuzzer's workers."""

from __future__ import annotations

import functools
import importlib
import itertools
import logging
import pathlib
import tempfile
from collections.abc import Callable

import numpy as np

from data_pipeline import (
    archive,
    people,
    records,
    tracking,
    video,
    voxceleb,
    work_files,
)
from data_pipeline.errors import InputError
from data_pipeline.images import Limits, read_image
from data_pipeline.video_writer import VideoWriter

# Small, so that a case that comes near them takes seconds and not gigabytes.
LIMITS = Limits(
    max_pixels=512 * 512,
    max_image_pixels=1024 * 1024,
    max_frames=500,
    max_seconds=120.0,
    max_decode_seconds=5.0,
    max_image_seconds=5.0,
    max_streams=8,
    max_bytes=2**26,
    max_image_bytes=2**24,
)
_MAX_BYTES = 2**27  # of arrays
_SETTINGS = records.Settings(size=32, frames_per_video=4, limits=LIMITS)


def read_frames(path: pathlib.Path) -> str:
    count = 0
    try:
        video.probe(path, LIMITS)
        for _, frame in video.read_frames(path, LIMITS):
            count += 1
            _expect(frame.dtype == np.uint8 and frame.ndim == 3)
    except InputError as error:
        if not count:
            raise
        return f"partial: {error.reason}"
    return "valid"


def read_corpus_clip(path: pathlib.Path) -> str:
    whole = voxceleb.Video("a/b", "a", "b", "train", (path,))
    return _prepared(whole)


def read_boxed_clip(path: pathlib.Path) -> str:
    voxceleb.read_boxes(path)
    clip = path.with_name("clip.mp4")
    boxed = voxceleb.Video("a/b", "a", "b", "train", (clip,), (path,))
    return _prepared(boxed)


def _prepared(source: voxceleb.Video) -> str:
    example, counts = records.prepare_video(source, _SETTINGS)
    if example is None:
        return f"refused: {next(iter({**counts.files, **counts.dropped}), 'no_face')}"
    _expect(len(example["frames"]) == len(example["landmarks"]) == counts.kept)
    return f"partial: {next(iter(counts.files))}" if counts.files else "valid"


def read_driver(path: pathlib.Path) -> str:
    track = tracking.track_video(path, LIMITS)
    _expect(track.landmarks.shape[1:] == (68, 2))
    return "partial: truncated" if track.problem else "valid"


def read_person(path: pathlib.Path) -> str:
    person = people.load_person([path], 32, frames_per_clip=2, limits=LIMITS)
    _expect(person.photos.shape[1:] == (32, 32, 3))
    return "valid"


def read_sound(path: pathlib.Path) -> str:
    """As `animate` keeps the sound of a driver."""
    with tempfile.TemporaryDirectory(prefix="fuzz_") as folder:
        target = pathlib.Path(folder) / "out.mp4"
        with VideoWriter(target, 32, 32, 25.0, audio_from=path) as writer:
            for _ in range(12):
                writer.write(np.zeros((32, 32, 3), np.uint8))
        _expect(sum(1 for _ in video.read_frames(target, LIMITS)) == 12)
    return "valid"


def read_photo(path: pathlib.Path) -> str:
    image = read_image(path, LIMITS)
    _expect(image.dtype == np.uint8 and image.shape[2] == 3)
    return "valid"


def read_track(path: pathlib.Path) -> str:
    track = tracking.LandmarkTrack.load(path)
    _expect(track.found.shape == (len(track.landmarks),))
    return "valid"


def read_archive(path: pathlib.Path) -> str:
    loaded = archive.load_archive(path, _MAX_BYTES)
    next(loaded.batches(0, 0, 2, 1))
    return "valid"


def read_work(path: pathlib.Path) -> str:
    """A damaged work file is made again; `prepare` takes any exception for that."""
    if work_files.load_counts(path) is None:
        return "refused: made again"
    try:
        work_files.load_example(path)
    except Exception:
        return "refused: made again"
    return "valid"


def read_head(path: pathlib.Path) -> str:
    from flax_heads.talking_head import TalkingHead

    head = TalkingHead.load(path, LIMITS, _MAX_BYTES)
    frame = next(head.animate(head.landmarks[:1]))
    _expect(frame.shape == (head.size, head.size, 3))
    return "valid"


def read_dataset(path: pathlib.Path) -> str:
    from data_pipeline.input_pipeline import Records

    dataset = Records(path, "train", max_damaged=0.5)
    batches = dataset.batches(0, 0, 2, 2)
    for batch in itertools.islice(batches, 3):
        _expect(batch["target_frame"].shape == (2, dataset.size, dataset.size, 3))
    batches.close()
    return f"partial: {len(dataset.damaged)} left out" if dataset.damaged else "valid"


def check_dataset(path: pathlib.Path) -> str:
    from data_pipeline.check import check_dataset

    report = check_dataset(path, pictures_per_video=0)
    return "refused: not intact" if report["problems"] else "valid"


_CLIP = (read_frames, read_corpus_clip, read_driver, read_person, read_sound)
_PHOTO = (read_photo, read_photo, read_photo, read_person)
READERS: dict[str, tuple[Callable[[pathlib.Path], str], ...]] = {
    **dict.fromkeys(("mp4", "mov", "mkv", "webm", "avi", "mpg"), _CLIP),
    **dict.fromkeys(("png", "jpg", "webp", "gif", "bmp", "tiff"), _PHOTO),
    "wav": (read_sound,),
    "track": (read_track,),
    "archive": (read_archive,),
    "work": (read_work,),
    "boxes": (read_boxed_clip,),
    "head": (read_head,),
    "dataset": (read_dataset, check_dataset),
}


@functools.cache
def warm_up(kind: str) -> None:
    """Imports what a kind needs, which is no part of a case's time."""
    logging.getLogger("flax_heads").setLevel(logging.ERROR)
    if kind == "head":
        importlib.import_module("flax_heads.talking_head")
    elif kind == "dataset":
        importlib.import_module("data_pipeline.check")
        importlib.import_module("data_pipeline.input_pipeline")
    else:
        from data_pipeline import landmarks

        landmarks.find_faces(np.zeros((64, 64, 3), np.uint8))


def _expect(condition: bool) -> None:
    if not condition:
        raise AssertionError("a reader returned what it should not")

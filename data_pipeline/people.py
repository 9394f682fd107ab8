"""A person's few-shot material: photos and clips to crops with landmarks."""

from __future__ import annotations

import dataclasses
import logging
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from data_pipeline import geometry
from data_pipeline.errors import InputError
from data_pipeline.images import Limits, read_image
from data_pipeline.landmarks import detect_landmarks
from data_pipeline.tracking import track_video
from data_pipeline.video import read_frames
from data_pipeline.voxceleb import VIDEO_SUFFIXES
from data_pipeline.workers import Failure, run_tasks

_log = logging.getLogger("flax_heads.people")

_JPEG_SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif")
PHOTO_SUFFIXES = (*_JPEG_SUFFIXES, ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")
_UNREAD_SUFFIXES = (".heic", ".heif", ".avif")  # photos whose decoder we do not have
_MEDIA_SUFFIXES = {*PHOTO_SUFFIXES, *_UNREAD_SUFFIXES, *VIDEO_SUFFIXES}
_SHOWN = 0.8  # of a face's landmarks must be in the picture, as in `prepare`
_FILES_OF_SYSTEMS = ("thumbs.db", "desktop.ini")


@dataclasses.dataclass(frozen=True)
class Person:
    """T pictures of one person in the crop convention of `geometry.head_box`.

    Attributes:
      photos: uint8 [T, size, size, 3] RGB.
      landmarks: float32 [T, 68, 2], pixels of the crops.
      sources: T file names (a clip's with the time of the frame).
    """

    photos: np.ndarray
    landmarks: np.ndarray
    sources: list[str]


def load_person(
    paths: Sequence[str | os.PathLike],
    size: int,
    frames_per_clip: int = 8,
    limits: Limits | None = None,
    on_frame: Callable[[], None] = lambda: None,
) -> Person:
    """Reads photos and clips of one person.

    Args:
      paths: photos (by suffix, see PHOTO_SUFFIXES) and video clips.
      size: side of the crops in pixels.
      frames_per_clip: frames to take from every clip, evenly over those with a face.
      limits: what a file may ask for.
      on_frame: called as frames of clips are read, as a sign of life.

    Raises:
      InputError: no paths; a file that cannot be read; a photo without a face, with
        several of similar prominence, or with one that its border cuts off; a clip
        without a frame to use.
    """
    if not paths:
        raise InputError("no photos given: name at least one photo or clip")
    photos, landmarks, sources = [], [], []
    for path in map(pathlib.Path, paths):
        if path.suffix.lower() in _UNREAD_SUFFIXES:
            raise InputError(
                f"{path}: is a photo in a format that is not read here; convert it to "
                "JPEG or PNG.",
                "format",
            )
        if path.suffix.lower() in PHOTO_SUFFIXES:
            image = read_image(path, limits)
            points = detect_landmarks(image, str(path))
            if not _is_whole(points, image):
                raise _cut_off(path, "use a photo that shows all of it")
            found = iter([(path.name, *_cropped(image, points, size))])
        else:
            found = _frames_of_clip(path, frames_per_clip, size, limits, on_frame)
        for name, photo, points in found:
            photos.append(photo)
            landmarks.append(points)
            sources.append(name)
    return Person(np.stack(photos), np.stack(landmarks), sources)


def people_from_folder(folder: str | os.PathLike) -> dict[str, list[pathlib.Path]]:
    """Who is in a folder: a subfolder for each person, or a file for each.

    Passed over are hidden files, those that systems leave behind, what is neither photo
    nor video by its name beside the subfolders, and what is in a subfolder's subfolders.

    Returns:
      name (of the subfolder, or of the file without its suffix) -> files, sorted.

    Raises:
      InputError: no such folder, nobody in it, or two of one name.
    """
    folder = pathlib.Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: is not a folder of people's photos", "missing")
    people: dict[str, list[pathlib.Path]] = {}
    for entry in _visible(folder):
        name, files = entry.stem, [entry]
        if entry.is_dir():
            name = entry.name
            files = [path for path in _visible(entry) if not path.is_dir()]
        elif entry.suffix.lower() not in _MEDIA_SUFFIXES:
            continue
        if name in people:
            raise InputError(
                f"{folder}: two entries would both be called {name!r}; rename one, or "
                "put one person's photos into one subfolder",
                "same_name",
            )
        people[name] = files
    if not people:
        raise InputError(
            f"{folder}: nobody in it; make a subfolder with photos for each person",
            "empty",
        )
    return people


def _visible(folder: pathlib.Path) -> list[pathlib.Path]:
    return sorted(
        path
        for path in folder.iterdir()
        if not path.name.startswith(".") and path.name.lower() not in _FILES_OF_SYSTEMS
    )


class Loaded(NamedTuple):
    """What `load_people` read of one person.

    Attributes:
      name: the person's.
      person: None if there is no usable picture.
      problems: of the files that were left out, one line each.
    """

    name: str
    person: Person | None
    problems: list[str]


def load_people(
    people: Mapping[str, Sequence[pathlib.Path]],
    size: int,
    frames_per_clip: int = 8,
    max_photos: int | None = None,
    limits: Limits | None = None,
    num_workers: int = 1,
) -> Iterator[Loaded]:
    """Reads many people in worker processes; what is wrong with one stops nobody.

    A file that cannot be used is left out, and so is a person without any that can.

    Args:
      people: from `people_from_folder`.
      size, frames_per_clip, limits: see `load_person`.
      max_photos: caps T: of a person's files the first ones that can be used are taken.
      num_workers: processes; 0 reads in this one. Several give people in any order.
    """
    tasks = [
        (name, list(files), size, frames_per_clip, max_photos, limits)
        for name, files in people.items()
    ]
    for task, loaded in run_tasks(_load_task, tasks, min(num_workers, len(tasks))):
        if isinstance(loaded, Failure):  # the decoder took its process with it
            loaded = Loaded(task[0], None, [f"{task[0]}: {loaded.message}"])
        yield loaded


def _load_task(task, beat: Callable[[], None]) -> Loaded:
    name, files, size, frames_per_clip, max_photos, limits = task
    parts, problems, count = [], [], 0
    for path in files:
        beat()
        try:
            part = load_person([path], size, frames_per_clip, limits, beat)
        except InputError as error:
            problems.append(str(error))
            continue
        parts.append(part)
        count += len(part.photos)
        if max_photos is not None and count >= max_photos:
            break
    if not parts:
        problems = problems or [f"{name}: an empty folder; put photos into it"]
        return Loaded(name, None, problems)
    person = Person(
        np.concatenate([part.photos for part in parts])[:max_photos],
        np.concatenate([part.landmarks for part in parts])[:max_photos],
        [source for part in parts for source in part.sources][:max_photos],
    )
    return Loaded(name, person, problems)


def _frames_of_clip(path, count, size, limits, on_frame):
    """`count` (name, crop, landmarks) spread evenly over a clip's frames with a face."""
    whole = []

    def look(time, frame, points):
        on_frame()
        whole.append(points is not None and _is_whole(points, frame))

    track = track_video(path, limits, on_frame=look)
    if track.problem:
        _log.warning("%s; its %d frames are used", track.problem, len(track.found))
    found = np.flatnonzero(whole)
    if not len(found):
        raise _cut_off(path, "use a clip that shows all of it")
    chosen = found[np.linspace(0, len(found) - 1, min(count, len(found))).astype(int)]
    wanted = set(chosen.tolist())
    for i, (time, frame) in enumerate(read_frames(path, limits)):
        on_frame()
        if i in wanted:
            yield f"{path.name}@{time:.2f}s", *_cropped(frame, track.landmarks[i], size)
        if i == chosen[-1]:
            break


def _cropped(image, landmarks, size):
    box = geometry.head_box(landmarks)
    crop = geometry.crop(image, box, size)
    return crop, geometry.to_crop(landmarks, box, size)


def _is_whole(landmarks, image):
    """Whether nearly all of a face is in the picture; the rest would be invented."""
    height, width, _ = image.shape
    inside = (landmarks > -0.5) & (landmarks < (width - 0.5, height - 0.5))
    return inside.all(-1).mean() >= _SHOWN


def _cut_off(path, advice):
    return InputError(f"{path}: the face is cut off by the border; {advice}", "cut_off")

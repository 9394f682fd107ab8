"""A person's few-shot material: photos and clips to crops with landmarks."""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Sequence

import numpy as np

from data_pipeline import geometry
from data_pipeline.errors import InputError
from data_pipeline.images import Limits, read_image
from data_pipeline.landmarks import detect_landmarks
from data_pipeline.tracking import track_video
from data_pipeline.video import read_frames

PHOTO_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff")


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
) -> Person:
    """Reads photos and clips of one person.

    Args:
      paths: photos (by suffix, see PHOTO_SUFFIXES) and video clips.
      size: side of the crops in pixels.
      frames_per_clip: frames to take from every clip, evenly over those with a face.
      limits: what a file may ask for.

    Raises:
      InputError: no paths; a file that cannot be read; a photo without a face or with
        several of similar prominence; a clip without a face.
    """
    if not paths:
        raise InputError("no photos given: name at least one photo or clip")
    photos, landmarks, sources = [], [], []
    for path in map(pathlib.Path, paths):
        if path.suffix.lower() in PHOTO_SUFFIXES:
            image = read_image(path, limits)
            found = [(path.name, image, detect_landmarks(image, str(path)))]
        else:
            found = _frames_of_clip(path, frames_per_clip, limits)
        for name, image, points in found:
            box = geometry.head_box(points)
            photos.append(geometry.crop(image, box, size))
            landmarks.append(geometry.to_crop(points, box, size))
            sources.append(name)
    return Person(np.stack(photos), np.stack(landmarks), sources)


def _frames_of_clip(path, count, limits):
    """`count` (name, frame, landmarks) spread evenly over a clip's frames with a face."""
    track = track_video(path, limits)
    found = np.flatnonzero(track.found)
    chosen = found[np.linspace(0, len(found) - 1, min(count, len(found))).astype(int)]
    wanted = set(chosen.tolist())
    frames = []
    for i, (time, frame) in enumerate(read_frames(path, limits)):
        if i in wanted:
            frames.append((f"{path.name}@{time:.2f}s", frame, track.landmarks[i]))
        if i == chosen[-1]:
            break
    return frames

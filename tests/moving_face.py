"""Clips of a moving photographed face, so that tests need no sample media."""

import functools
import pathlib

import numpy as np

from data_pipeline import geometry
from data_pipeline.video_writer import VideoWriter


@functools.cache
def _photo() -> np.ndarray:
    import skimage.data

    return skimage.data.astronaut()  # its face: about (220, 120), 90 pixels wide


def face_frame(size: int, shift: float = 0.0, side: float = 190.0) -> np.ndarray:
    """A square crop around the face, moved by `shift` pixels of the photo."""
    box = geometry.Box(222 - side / 2 + shift, 118 - side / 2 + shift / 2, side)
    return geometry.crop(_photo(), box, size)


def write_clip(
    path: pathlib.Path, num_frames: int = 12, size: int = 128, phase: float = 0.0
) -> pathlib.Path:
    """Writes a face that swings to and fro."""
    shifts = 8 * np.sin(phase + 0.5 * np.arange(num_frames))
    return write_frames(path, [face_frame(size, shift) for shift in shifts])


def write_frames(path: pathlib.Path, frames: list[np.ndarray]) -> pathlib.Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    height, width, _ = frames[0].shape
    with VideoWriter(path, width, height, 25.0) as writer:
        for frame in frames:
            writer.write(frame)
    return path


def write_corpus(root: pathlib.Path, num_frames: int = 12) -> pathlib.Path:
    """Three people, four videos, one of two utterances, in VoxCeleb2's layout."""
    names = ("id1/a/00001", "id1/a/00002", "id1/b/00001", "id2/c/00001", "id3/d/00001")
    for phase, name in enumerate(names):
        write_clip(root / "mp4" / f"{name}.mp4", num_frames, phase=phase)
    return root

"""Episodes from memory: small corpora and synthetic heads, without TensorFlow.

The file is an `.npz` without pickles: frames as JPEG (quality 95, full colour
resolution), a tenth of the raw size for footage that was lossy before; landmarks as
they are; rasters not at all, since they are drawn again from the landmarks.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
from collections.abc import Callable, Collection, Iterator, Sequence

import numpy as np

from data_pipeline import episodes, packing, raster, safe_files, voxceleb, workers
from data_pipeline.errors import InputError
from data_pipeline.identity_augmentation import augment_batch, check_strength
from data_pipeline.raster import RasterStyle
from data_pipeline.read_ahead import read_ahead
from data_pipeline.synthetic_person import person_name, person_seed

MAX_BYTES = 2**36  # of frames and rasters in memory
AHEAD = 4  # batches of augmented episodes made before their turn
_FORMAT = 1
_STYLE = RasterStyle()


@dataclasses.dataclass(frozen=True)
class Archive:
    """All frames of V videos, one after another.

    Attributes:
      frames: uint8 [N, H, H, 3] RGB.
      landmarks: float32 [N, 68, 2], pixels of the frame.
      rasters: uint8 [N, H, H, 3].
      video_offset: int64 [V + 1]; video v is `frames[offset[v]:offset[v + 1]]`.
      videos: V unique names.
      identities: the person in each video, V names.
      style: how the rasters were drawn.
    """

    frames: np.ndarray
    landmarks: np.ndarray
    rasters: np.ndarray
    video_offset: np.ndarray
    videos: list[str]
    identities: list[str]
    style: RasterStyle

    @property
    def size(self) -> int:
        """Side of the frames in pixels."""
        return self.frames.shape[1]

    @property
    def num_videos(self) -> int:
        return len(self.videos)

    @property
    def frames_per_video(self) -> np.ndarray:
        """int64 [V]."""
        return np.diff(self.video_offset)

    def batches(
        self,
        seed: int,
        start_step: int,
        batch_size: int,
        num_support: int,
        process_index: int = 0,
        process_count: int = 1,
        identity_augmentation: float = 0.0,
    ) -> Iterator[dict[str, np.ndarray]]:
        """Endless batches (see `episodes`) from `start_step` on.

        Args:
          batch_size: global; each process gets its contiguous part of it.
          identity_augmentation: strength in [0, 1], see `augment_batch`; above 0 a
            thread makes the batches ahead of their use.

        Raises:
          InputError: no video is long enough, the processes do not divide the batch,
            or the strength is out of range.
        """
        check_strength(identity_augmentation)
        part = episodes.process_slice(batch_size, process_index, process_count)
        episodes.draw_episodes(  # raises now, not when the first batch is asked for
            seed, start_step, batch_size, num_support, self.frames_per_video
        )
        arguments = (seed, start_step, batch_size, num_support, part)
        batches = self._batches(*arguments, identity_augmentation)
        return read_ahead(batches, AHEAD) if identity_augmentation else batches

    def _batches(self, seed, start_step, batch_size, num_support, part, strength):
        step = start_step
        while True:
            video_index, frame_index = episodes.draw_episodes(
                seed, step, batch_size, num_support, self.frames_per_video
            )
            video_index, frame_index = video_index[part], frame_index[part]
            rows = self.video_offset[video_index][:, None] + frame_index
            supports, target = rows[:, :-1], rows[:, -1]
            batch = {
                "support_frames": self.frames[supports],  # [B, K, H, W, 3]
                "support_rasters": self.rasters[supports],
                "target_frame": self.frames[target],  # [B, H, W, 3]
                "target_raster": self.rasters[target],
                "video_index": video_index,  # [B]
            }
            position = step * batch_size + part.start
            yield augment_batch(
                batch, self.landmarks[rows], seed, position, strength, self.style
            )
            step += 1

    def select(self, video_indices: Sequence[int]) -> Archive:
        """The archive of these videos only, in this order."""
        spans = [
            np.arange(self.video_offset[v], self.video_offset[v + 1])
            for v in video_indices
        ]
        rows = np.concatenate(spans) if spans else np.zeros(0, np.int64)
        return Archive(
            frames=self.frames[rows],
            landmarks=self.landmarks[rows],
            rasters=self.rasters[rows],
            video_offset=packing.offsets([len(span) for span in spans]),
            videos=[self.videos[v] for v in video_indices],
            identities=[self.identities[v] for v in video_indices],
            style=self.style,
        )

    def split_by_identity(self, test: float | Collection[str]) -> tuple[Archive, ...]:
        """(train, test) with no person in both.

        Args:
          test: the fraction of the people to hold out, or their names.

        Raises:
          InputError: a name is not in the archive.
        """
        if isinstance(test, (int, float)):
            held_out = voxceleb.held_out_identities(self.identities, test)
        else:
            held_out = set(test)
            if unknown := held_out - set(self.identities):
                raise InputError(
                    f"no video of {', '.join(sorted(unknown))} in the archive",
                    reason="unknown_identity",
                )
        in_test = [identity in held_out for identity in self.identities]
        return (
            self.select(np.flatnonzero(np.logical_not(in_test))),
            self.select(np.flatnonzero(in_test)),
        )

    def save(self, path: str | os.PathLike, quality: int = 95) -> None:
        """Writes the archive, atomically. `quality` is that of the JPEG frames."""
        frames, sizes = packing.pack(
            [packing.encode_jpeg(frame, quality) for frame in self.frames]
        )
        header = {
            "format": _FORMAT,
            "size": self.size,
            "style": dataclasses.asdict(self.style),
            "videos": self.videos,
            "identities": self.identities,
        }
        packing.save_npz(
            path,
            header=np.frombuffer(json.dumps(header).encode(), np.uint8),
            frames=frames,
            frame_sizes=sizes,
            landmarks=self.landmarks,
            video_offset=self.video_offset,
        )


def load_archive(path: str | os.PathLike, max_bytes: int = MAX_BYTES) -> Archive:
    """Reads what `Archive.save` wrote; the rasters are drawn on the way.

    Args:
      max_bytes: that the frames and rasters may take in memory.

    Raises:
      InputError: no such file, not an archive, damaged, too large, or drawn in another
        style.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such archive", reason="missing")
    try:
        stored = safe_files.read_npz(path, max_bytes)
        header = safe_files.parse_json(stored["header"].tobytes())
        if header["format"] != _FORMAT:
            raise ValueError(f"format {header['format']}, this code reads {_FORMAT}")
        blobs = packing.unpack(stored["frames"], stored["frame_sizes"])
        size = int(header["size"])
        if len(blobs) * size * size * 6 > max_bytes:
            raise ValueError(
                f"{len(blobs)} frames of {size} px take more memory than the limit of "
                f"{max_bytes / 1e9:.0f} GB"
            )
        return make_archive(
            np.stack([packing.decode_jpeg(blob, size) for blob in blobs]),
            stored["landmarks"],
            np.diff(stored["video_offset"]),
            [str(name) for name in header["videos"]],
            [str(name) for name in header["identities"]],
            RasterStyle(**header["style"]),
        )
    except (
        *(OSError, ValueError, KeyError, TypeError, AttributeError, IndexError),
        *(MemoryError, OverflowError),
    ) as error:
        raise InputError(
            f"{path}: not a readable archive of episodes ({error}); make it again",
            reason="unreadable",
        ) from error


def make_archive(
    frames: np.ndarray,
    landmarks: np.ndarray,
    frames_per_video: Sequence[int],
    videos: list[str],
    identities: list[str],
    style: RasterStyle = _STYLE,
) -> Archive:
    """Checks the parts of an archive and draws its rasters.

    Raises:
      ValueError: the parts do not fit together.
    """
    count = len(frames)
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3:
        raise ValueError(f"frames must be uint8 [N, H, H, 3], got {frames.shape}")
    if frames.shape[1] != frames.shape[2]:
        raise ValueError(f"frames must be square, got {frames.shape}")
    with np.errstate(over="ignore"):
        landmarks = landmarks.astype(np.float32)
    if landmarks.shape != (count, 68, 2) or not np.isfinite(landmarks).all():
        raise ValueError(f"landmarks must be finite [{count}, 68, 2]")
    if not len(videos) == len(identities) == len(frames_per_video):
        raise ValueError("as many names, identities and lengths as videos, please")
    if len(set(videos)) != len(videos):
        raise ValueError("two videos have the same name")
    if np.min(frames_per_video, initial=0) < 0 or np.sum(frames_per_video) != count:
        raise ValueError(f"the videos' lengths do not add up to {count} frames")
    return Archive(
        frames=frames,
        landmarks=landmarks,
        rasters=raster.draw_rasters(landmarks, frames.shape[1], style),
        video_offset=packing.offsets(frames_per_video),
        videos=videos,
        identities=identities,
        style=style,
    )


def render_archive(
    num_videos: int,
    frames_per_video: int,
    size: int,
    seed: int = 0,
    num_workers: int | None = None,
    style: RasterStyle = _STYLE,
    on_progress: Callable[[int], None] = lambda done: None,
) -> Archive:
    """Renders synthetic people, one video each, in parallel processes.

    The same arguments give the same archive, whatever the number of workers.
    `on_progress` is called with the number of videos done.
    """
    tasks = [(v, seed, frames_per_video, size) for v in range(num_videos)]
    results = workers.run_all(_render, tasks, num_workers, on_progress)
    names = [person_name(seed, v) for v in range(num_videos)]
    return make_archive(
        np.concatenate([frames for frames, _ in results]),
        np.concatenate([landmarks for _, landmarks in results]),
        [len(frames) for frames, _ in results],
        names,
        list(names),
        style,
    )


def _render(task, beat) -> tuple[np.ndarray, np.ndarray]:
    from data_pipeline import synthetic

    video, seed, num_frames, size = task
    return synthetic.make_video(person_seed(seed, video), num_frames, size)

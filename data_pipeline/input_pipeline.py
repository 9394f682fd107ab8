"""Prepared records to batches, by tf.data; only the sampled frames are decoded."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
from collections.abc import Iterator

import numpy as np

# No banners: the first only silences TensorFlow's own log, not oneDNN's notice.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")

import tensorflow as tf
import tensorflow_datasets as tfds

from data_pipeline import archive, episodes, geometry, packing
from data_pipeline.errors import InputError
from data_pipeline.prepare import find_datasets
from data_pipeline.raster import RASTER_VERSION, RasterStyle

with contextlib.suppress(RuntimeError):  # TensorFlow runs already: leave it alone
    tf.config.set_visible_devices([], "GPU")  # the accelerator is JAX's

_AGAIN = "run `flax-heads prepare` again"


class Records:
    """One split of a prepared dataset, for random access.

    Attributes:
      path: folder of the dataset.
      split: `train` or `test`.
      size: side of the frames, pixels.
      style: how the rasters were drawn.
      crop: the crop convention, `whole_frame` or `follow_head`.
      videos: M names, unique; `video_index` is a position in this list.
      identities: the person in each video.
      frames_per_video: int64 [M].
    """

    def __init__(self, data_dir: str | os.PathLike, split: str = "train"):
        """Opens a dataset.

        Args:
          data_dir: as given to `prepare`, or the folder of one dataset in it.
          split: `train` or `test`.

        Raises:
          InputError: no dataset, several, an incomplete one, no such split, or
            rasters of a version that this code does not draw.
        """
        self.path = _one_dataset(pathlib.Path(data_dir))
        self.split = split
        self._source = _open(self.path, split)
        try:
            metadata = json.loads((self.path / "metadata.json").read_text())
            self.size, self.crop = metadata["size"], metadata["crop"]
            self.style = RasterStyle(**metadata["style"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{self.path}: no dataset of talking heads ({error}); {_AGAIN}",
                reason="unreadable",
            ) from error
        if self.style.version != RASTER_VERSION:
            raise InputError(
                f"{self.path}: holds rasters of version {self.style.version}, this "
                f"code draws version {RASTER_VERSION}; {_AGAIN} into another folder",
                reason="other_version",
            )
        index = _load_index(self.path, split, len(self._source))
        if index is None:
            index = _make_index(self.path, split, self._source)
            with contextlib.suppress(OSError):  # a read-only dataset: scan again
                packing.save_npz(_index_path(self.path, split), **index)
        self.videos = index["videos"].tolist()
        self.identities = index["identities"].tolist()
        self.frames_per_video = index["frames_per_video"]

    @property
    def num_videos(self) -> int:
        return len(self.videos)

    def batches(
        self,
        seed: int,
        start_step: int,
        batch_size: int,
        num_support: int,
        process_index: int = 0,
        process_count: int = 1,
    ) -> Iterator[dict[str, np.ndarray]]:
        """Endless batches (see `episodes`) from `start_step` on, read ahead.

        The same episodes as those of an `Archive` of the same records.

        Args:
          batch_size: global; each process gets its contiguous part of it.

        Raises:
          InputError: no video is long enough, the processes do not divide the batch,
            or, while reading, a damaged record.
        """
        part = episodes.process_slice(batch_size, process_index, process_count)
        arguments = (batch_size, num_support, self.frames_per_video)
        episodes.draw_episodes(seed, start_step, *arguments)  # raises early

        def read(step):
            """The episodes of one step and their records, still serialized."""
            video_index, frame_index = episodes.draw_episodes(
                seed, int(step), *arguments
            )
            video_index, frame_index = video_index[part], frame_index[part]
            records = self._source.__getitems__(video_index.tolist())
            return np.array(records, object), video_index, frame_index

        def read_step(step):
            records, video_index, frame_index = tf.numpy_function(
                read, [step], [tf.string, tf.int32, tf.int32], stateful=False
            )
            local = part.stop - part.start
            records.set_shape([local])
            video_index.set_shape([local])
            frame_index.set_shape([local, num_support + 1])
            return records, video_index, frame_index

        def decode(record, video_index, frame_index):
            frames, rasters = self._decode(record, frame_index)
            return {
                "support_frames": frames[:-1],  # [K, H, W, 3]
                "support_rasters": rasters[:-1],
                "target_frame": frames[-1],  # [H, W, 3]
                "target_raster": rasters[-1],
                "video_index": video_index,
            }

        dataset = (
            tf.data.Dataset.range(start_step, np.iinfo(np.int64).max)
            .map(read_step, num_parallel_calls=2)
            .unbatch()
            .map(decode, num_parallel_calls=tf.data.AUTOTUNE)
            .batch(part.stop - part.start, drop_remainder=True)
            .prefetch(2)
        )
        try:
            yield from dataset.as_numpy_iterator()
        except tf.errors.OpError as error:
            raise InputError(
                f"{self.path}: a record of the split {self.split} cannot be read "
                f"({_last_line(error)}); restore the files or {_AGAIN}",
                reason="unreadable",
            ) from error

    def _decode(self, record: tf.Tensor, frame_index: tf.Tensor):
        """The chosen frames and rasters of one record: uint8 [n, H, W, 3] each."""
        blobs = tf.io.FixedLenSequenceFeature([], tf.string, allow_missing=True)
        example = tf.io.parse_single_example(
            record, {"frames": blobs, "rasters": blobs}
        )
        frames, rasters = [], []
        for i in range(frame_index.shape[0]):  # unrolled: faster than tf.map_fn
            jpeg, png = (example[k][frame_index[i]] for k in ("frames", "rasters"))
            # As Pillow decodes, so that every reader sees the same pixels.
            frame = tf.io.decode_jpeg(jpeg, channels=3, dct_method="INTEGER_ACCURATE")
            frames.append(tf.ensure_shape(frame, (self.size, self.size, 3)))
            raster = tf.io.decode_png(png, channels=3)
            rasters.append(tf.ensure_shape(raster, (self.size, self.size, 3)))
        return tf.stack(frames), tf.stack(rasters)


def archive_from_records(
    data_dir: str | os.PathLike, split: str = "train", size: int | None = None
) -> archive.Archive:
    """Loads all frames of a split into memory, in the order of the records.

    Args:
      size: side of the archive's frames in pixels, at most that of the records;
        rasters are drawn at that size.

    Raises:
      InputError: as `Records`, or a larger size.
    """
    records = Records(data_dir, split)
    size = size or records.size
    if size > records.size:
        raise InputError(
            f"{records.path}: has frames of {records.size} px, so no archive of {size} "
            "px can be made from it; prepare it at that size"
        )
    box = geometry.whole_frame(records.size, records.size)
    frames, landmarks = [], []
    for serialized in records._source:
        feature = tf.train.Example.FromString(serialized).features.feature
        points = np.float32(feature["landmarks"].float_list.value).reshape(-1, 68, 2)
        for blob in feature["frames"].bytes_list.value:
            frame = packing.decode_jpeg(blob)
            same = size == records.size
            frames.append(frame if same else geometry.crop(frame, box, size))
        landmarks.append(geometry.resize_points(points, records.size, size))
    return archive.make_archive(
        np.stack(frames),
        np.concatenate(landmarks),
        records.frames_per_video,
        records.videos,
        records.identities,
        records.style,
    )


def split_names(data_dir: str | os.PathLike) -> list[str]:
    """The splits of a prepared dataset, `train` first."""
    path = _one_dataset(pathlib.Path(data_dir))
    return sorted(tfds.builder_from_directory(path).info.splits, reverse=True)


def write_indexes(data_dir: str | os.PathLike) -> None:
    """Writes what `Records` needs to know of all records, so that it opens fast."""
    for split in split_names(data_dir):
        Records(data_dir, split)


def _one_dataset(data_dir: pathlib.Path) -> pathlib.Path:
    if not data_dir.is_dir():
        raise InputError(f"{data_dir}: no such folder; {_AGAIN}", reason="missing")
    found = find_datasets(data_dir)
    if not found:
        unfinished = (data_dir / "work").is_dir()
        raise InputError(
            f"{data_dir}: "
            + ("the dataset is not finished" if unfinished else "holds no dataset")
            + f"; {_AGAIN}",
            reason="incomplete" if unfinished else "missing",
        )
    if len(found) > 1:
        names = ", ".join(str(path) for path in found)
        raise InputError(f"{data_dir}: holds several datasets, name one: {names}")
    return found[0]


def _open(path: pathlib.Path, split: str):
    """The serialized records of one split, for random access."""
    builder = tfds.builder_from_directory(path)
    if split not in builder.info.splits:
        raise InputError(
            f"{path}: has no split {split}, only {', '.join(builder.info.splits)}",
            reason="no_split",
        )
    if builder.info.file_format != tfds.core.FileFormat.ARRAY_RECORD:
        raise InputError(
            f"{path}: stored as {builder.info.file_format.value}, which has no random "
            "access; prepare it as array_record",
            reason="file_format",
        )
    missing = [f for f in builder.info.splits[split].filepaths if not f.exists()]
    if missing:
        raise InputError(f"{missing[0]}: missing; {_AGAIN}", reason="incomplete")
    try:
        source = builder.as_data_source(split=split).data_source
        count = builder.info.splits[split].num_examples
        if len(source) != count or not count:
            raise ValueError(f"{len(source)} of {count} records")
        source[count - 1]
    except (ValueError, RuntimeError, IndexError, OSError) as error:
        raise InputError(
            f"{path}: the split {split} is damaged ({_last_line(error)}); restore the "
            f"files or {_AGAIN}",
            reason="unreadable",
        ) from error
    return source


def _index_path(path: pathlib.Path, split: str) -> pathlib.Path:
    return path / f"index_{split}.npz"


def _load_index(path: pathlib.Path, split: str, count: int) -> dict | None:
    """The stored index of a split, or None if it has to be made."""
    try:
        with open(_index_path(path, split), "rb") as file:
            with np.load(file, allow_pickle=False) as stored:
                index = dict(stored)
        names = ("videos", "identities", "frames_per_video")
        return index if all(len(index[name]) == count for name in names) else None
    except Exception:  # no matter why
        return None


def _make_index(path: pathlib.Path, split: str, source) -> dict[str, np.ndarray]:
    """Reads every record once."""
    rows = []
    try:
        for serialized in source:
            feature = tf.train.Example.FromString(serialized).features.feature
            text = (feature[k].bytes_list.value[0] for k in ("video", "identity"))
            video, identity = (value.decode() for value in text)
            rows.append((video, identity, len(feature["frames"].bytes_list.value)))
    except Exception as error:
        raise InputError(
            f"{path}: record {len(rows)} of the split {split} is damaged "
            f"({_last_line(error)}); restore the files or {_AGAIN}",
            reason="unreadable",
        ) from error
    videos, identities, lengths = zip(*rows)
    return {
        "videos": np.array(videos),
        "identities": np.array(identities),
        "frames_per_video": np.array(lengths, np.int64),
    }


def _last_line(error: BaseException) -> str:
    """TensorFlow's messages are pages; the cause is in their last words."""
    text = getattr(error, "message", None) or str(error)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[0][:200] if lines else type(error).__name__

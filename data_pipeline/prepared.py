"""A prepared dataset, opened: what it says about itself and its records by number."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
from typing import Any

import numpy as np

from data_pipeline import packing, safe_files
from data_pipeline.errors import InputError
from data_pipeline.finished import find_datasets
from data_pipeline.images import one_line
from data_pipeline.raster import RASTER_VERSION, RasterStyle
from data_pipeline.shards import AGAIN, ODD_CONTENT, ShardReader, find_shards
from data_pipeline.tf_reading import parse_example

_PREPARE = "run `flax-heads prepare` again"
_INDEX_BYTES = 2**12  # of a video, at most


@dataclasses.dataclass(frozen=True)
class Prepared:
    """One split of a prepared dataset.

    Attributes:
      path: folder of the dataset.
      split: `train` or `test`.
      size: side of the frames, pixels.
      crop: the crop convention, `whole_frame` or `follow_head`.
      style: how the rasters were drawn.
      reader: the serialized records.
      videos: M names, unique.
      identities: the person in each video.
      frames_per_video: int64 [M].
    """

    path: pathlib.Path
    split: str
    size: int
    crop: str
    style: RasterStyle
    reader: ShardReader
    videos: list[str]
    identities: list[str]
    frames_per_video: np.ndarray

    def read(self, index: int, landmarks: bool = True) -> dict[str, Any]:
        """One record, see `parse_example`.

        Raises:
          InputError: `damaged`: unreadable, or not the record that the index names.
        """
        where = self.reader.name_of(index)
        try:
            example = parse_example(self.reader.read(index), landmarks)
        except ValueError as error:
            if isinstance(error, InputError):
                raise
            raise InputError(
                f"{where} is damaged ({error}); {AGAIN}", "damaged"
            ) from error
        found = example["video"], len(example["frames"])
        if found != (self.videos[index], self.frames_per_video[index]):
            raise InputError(
                f"{where} is not that of {self.videos[index]}, as the index says; "
                f"{AGAIN}",
                "damaged",
            )
        return example


def open_split(data_dir: str | os.PathLike, split: str) -> Prepared:
    """Opens one split; reads no records but to make an index that is missing.

    Raises:
      InputError: no dataset, several, an incomplete one, no such split, or rasters of
        a version that this code does not draw.
    """
    path = one_dataset(data_dir)
    size, crop, style = _read_metadata(path)
    shards = find_shards(path)
    if split not in shards:
        raise InputError(
            f"{path}: has no split {split}, only {', '.join(shards)}", reason="no_split"
        )
    reader = ShardReader(shards[split])
    if not len(reader):
        raise InputError(f"{path}: the split {split} is empty", reason="empty")
    index = _load_index(path, split, len(reader))
    if index is None:
        index = _make_index(reader)
        with contextlib.suppress(OSError):  # a read-only dataset: scan again
            packing.save_npz(_index_path(path, split), **index)
    return Prepared(
        *(path, split, size, crop, style, reader),
        videos=index["videos"].tolist(),
        identities=index["identities"].tolist(),
        frames_per_video=index["frames_per_video"],
    )


def one_dataset(data_dir: str | os.PathLike) -> pathlib.Path:
    """The folder of the one dataset in `data_dir`, which may itself be it.

    Raises:
      InputError: there is none, or several.
    """
    data_dir = pathlib.Path(data_dir)
    if not data_dir.is_dir():
        raise InputError(f"{data_dir}: no such folder; {_PREPARE}", reason="missing")
    found = find_datasets(data_dir)
    if not found:
        unfinished = (data_dir / "work").is_dir()
        raise InputError(
            f"{data_dir}: "
            + ("the dataset is not finished" if unfinished else "holds no dataset")
            + f"; {_PREPARE}",
            reason="incomplete" if unfinished else "missing",
        )
    if len(found) > 1:
        names = ", ".join(str(path) for path in found)
        raise InputError(f"{data_dir}: holds several datasets, name one: {names}")
    return found[0]


def split_names(data_dir: str | os.PathLike) -> list[str]:
    """The splits of a prepared dataset, `train` first."""
    return sorted(find_shards(one_dataset(data_dir)), reverse=True)


def write_indexes(data_dir: str | os.PathLike) -> None:
    """Writes what `open_split` needs to know of all records, so that it is fast."""
    for split in split_names(data_dir):
        open_split(data_dir, split)


def _read_metadata(path: pathlib.Path) -> tuple[int, str, RasterStyle]:
    try:
        metadata = safe_files.read_json(path / "metadata.json")
        size, crop = int(metadata["size"]), str(metadata["crop"])
        style = RasterStyle(**metadata["style"])
        if not 16 <= size <= 2**14 or crop not in ("whole_frame", "follow_head"):
            raise ValueError(f"frames of {size} px, crop {crop}")
    except ODD_CONTENT as error:
        raise InputError(
            f"{path}: no dataset of talking heads ({one_line(error)}); {AGAIN}",
            reason="unreadable",
        ) from error
    if style.version != RASTER_VERSION:
        raise InputError(
            f"{path}: holds rasters of version {style.version}, this code draws "
            f"version {RASTER_VERSION}; {_PREPARE} into another folder",
            reason="other_version",
        )
    return size, crop, style


def _index_path(path: pathlib.Path, split: str) -> pathlib.Path:
    return path / f"index_{split}.npz"


def _load_index(path: pathlib.Path, split: str, count: int) -> dict | None:
    """The stored index of a split, or None if it has to be made."""
    try:
        index = safe_files.read_npz(_index_path(path, split), count * _INDEX_BYTES)
        lengths, videos = index["frames_per_video"], index["videos"].tolist()
        good = lengths.dtype == np.int64 and lengths.shape == (count,)
        good &= len(set(videos)) == len(index["identities"].tolist()) == count
        return index if good and lengths.min() > 0 else None
    except Exception:  # no matter why
        return None


def _make_index(reader: ShardReader) -> dict[str, np.ndarray]:
    """Reads every record once."""
    rows = []
    for i in range(len(reader)):
        try:
            example = parse_example(reader.read(i), landmarks=False)
        except ValueError as error:  # an InputError, too
            raise InputError(
                f"{reader.name_of(i)} is damaged ({error}), and without its index_*.npz "
                f"the dataset cannot do without it; {AGAIN}",
                reason="unreadable",
            ) from error
        rows.append((example["video"], example["identity"], len(example["frames"])))
    videos, identities, lengths = zip(*rows)
    return {
        "videos": np.array(videos),
        "identities": np.array(identities),
        "frames_per_video": np.array(lengths, np.int64),
    }

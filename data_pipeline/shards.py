"""The files of a prepared dataset: which there are, their checksums, their records.

TFDS describes a dataset in `dataset_info.json`; the manifest beside it holds what TFDS
does not: every file's size and SHA-256. Reading needs neither TFDS nor TensorFlow.
"""

from __future__ import annotations

import bisect
import concurrent.futures
import dataclasses
import hashlib
import itertools
import json
import os
import pathlib
import resource
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from data_pipeline import safe_files
from data_pipeline.errors import InputError
from data_pipeline.images import STORAGE, one_line
from data_pipeline.outputs import whole_file

MANIFEST = "manifest.json"
AGAIN = "restore it from a copy or run `flax-heads prepare` again"
_FORMAT = 1
_DESCRIPTIONS = ("dataset_info.json", "features.json", "metadata.json")
# What a file that is not as it should be can raise where its values are used.
ODD_CONTENT = (
    OSError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    OverflowError,
)
_OTHER_FILES = 512  # of checkpoints, logs, sockets and libraries
_OPENERS = 16  # threads; opening a file on a network drive is mostly waiting


@dataclasses.dataclass(frozen=True)
class Shard:
    """One file of records.

    Attributes:
      path: the file.
      records: how many records it must hold.
      bytes: its size, None where there is no manifest.
    """

    path: pathlib.Path
    records: int
    bytes: int | None = None


def find_shards(folder: pathlib.Path) -> dict[str, list[Shard]]:
    """The shards of every split of a dataset, in the order of their records.

    Raises:
      InputError: not a dataset, a damaged description, a format without random access,
        or a manifest that contradicts the description.
    """
    splits = _described_shards(folder)
    manifest = read_manifest(folder)
    if manifest is None:
        return splits
    for shards in splits.values():
        for i, shard in enumerate(shards):
            entry = manifest.get(shard.path.name, {})
            if entry.get("records") != shard.records:
                raise InputError(
                    f"{folder / MANIFEST}: does not list {shard.path.name} with "
                    f"{shard.records} records, as dataset_info.json does; {AGAIN}",
                    reason="unreadable",
                )
            shards[i] = dataclasses.replace(shard, bytes=entry["bytes"])
    return splits


def _described_shards(folder: pathlib.Path) -> dict[str, list[Shard]]:
    """What `dataset_info.json` says."""
    path = folder / "dataset_info.json"
    try:
        info = safe_files.read_json(path)
        file_format = info["fileFormat"]
        if file_format != "array_record":
            raise InputError(
                f"{folder}: stored as {file_format}, which has no random access; "
                "prepare it as array_record",
                reason="file_format",
            )
        return {
            split["name"]: _named_shards(folder, info, split)
            for split in info["splits"]
        }
    except InputError:
        raise
    except ODD_CONTENT as error:
        raise InputError(
            f"{path}: does not describe a dataset ({one_line(error)}); {AGAIN}",
            reason="unreadable",
        ) from error


def _named_shards(folder: pathlib.Path, info: dict, split: dict) -> list[Shard]:
    """One split's files, as TFDS names them."""
    lengths = [int(length) for length in split["shardLengths"]]
    if not lengths or min(lengths) < 0 or sum(lengths) > 2**31:
        raise ValueError(f"shards of {lengths[:3]} records")
    shards = []
    for i, length in enumerate(lengths):
        name = split.get("filepathTemplate") or (
            "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
        )
        for field, value in (
            ("DATASET", info["name"]),
            ("SPLIT", split["name"]),
            ("FILEFORMAT", info["fileFormat"]),
            ("SHARD_X_OF_Y", f"{i:05d}-of-{len(lengths):05d}"),
        ):
            name = name.replace(f"{{{field}}}", value)
        shards.append(Shard(safe_files.inside(folder, name), length))
    return shards


class ShardReader:
    """Random access to the records of some shards, one after another.

    Attributes:
      damaged: position of a shard -> what is wrong with all of it.
    """

    def __init__(self, shards: Sequence[Shard]):
        """Opens all shards; one that is damaged as a whole is only noted.

        Raises:
          InputError: a shard is missing, or `machine`: this process may not have so many
            files open, or the storage does not answer.
        """
        _allow_open_files(len(shards))
        for shard in shards:
            if not shard.path.is_file():
                raise InputError(f"{shard.path}: missing; {AGAIN}", reason="incomplete")
        self.shards = list(shards)
        self.damaged: dict[int, str] = {}
        self._ends = list(itertools.accumulate(shard.records for shard in shards))
        self._locks = [threading.Lock() for _ in shards]
        with concurrent.futures.ThreadPoolExecutor(_OPENERS) as pool:
            self._readers = list(pool.map(_open, self.shards))
        for i, reader in enumerate(self._readers):
            if isinstance(reader, str):
                self.damaged[i] = reader

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def shard_of(self, index: int) -> tuple[int, int]:
        """The shard of a record and its position in there."""
        shard = bisect.bisect_right(self._ends, index)
        return shard, index - self.members(shard).start

    def members(self, shard: int) -> range:
        """The numbers of a shard's records."""
        return range(self._ends[shard - 1] if shard else 0, self._ends[shard])

    def name_of(self, index: int) -> str:
        """A record in messages: its file and its position in there."""
        shard, position = self.shard_of(index)
        return f"{self.shards[shard].path}: record {position}"

    def read(self, index: int) -> bytes:
        """One serialized record; its checksum, which the file holds, is checked.

        Raises:
          InputError: `damaged`; names the shard and the record.
        """
        shard, position = self.shard_of(index)
        path = self.shards[shard].path
        if shard in self.damaged:
            raise InputError(f"{path}: {self.damaged[shard]}; {AGAIN}", "damaged")
        try:
            with self._locks[shard]:
                return self._readers[shard].read([position])[0]
        except Exception as error:
            raise InputError(
                f"{self.name_of(index)} is damaged ({one_line(error)}); {AGAIN}",
                "damaged",
            ) from error


def _allow_open_files(count: int) -> None:
    """Raises this process's soft limit, mostly 1024, where `count` more would pass it.

    TFDS makes as many shards of a split as that from 64 GiB on.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = len(os.listdir("/dev/fd")) + count + _OTHER_FILES
    if soft == resource.RLIM_INFINITY or needed <= soft:
        return
    if hard != resource.RLIM_INFINITY and needed > hard:
        raise InputError(
            f"the dataset has {count} files, and this process may have {hard} open: raise "
            f"the limit (`ulimit -n {needed}`, or LimitNOFILE of the service)",
            "machine",
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


def _open(shard: Shard) -> Any:
    """A reader, or what is wrong with the whole file."""
    from array_record.python import array_record_module

    try:
        with shard.path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
    except OSError as error:
        if error.errno in STORAGE:
            raise InputError(f"{shard.path}: {error.strerror}.", "machine") from error
        return f"cannot be opened ({one_line(error)})"
    if shard.bytes is not None and size != shard.bytes:
        return f"{size} bytes long instead of {shard.bytes}"
    try:
        reader = array_record_module.ArrayRecordReader(
            str(shard.path),
            options="readahead_buffer_size:0",
            file_reader_buffer_size=32768,
        )
        count = reader.num_records()
    except Exception as error:
        return f"cannot be opened ({one_line(error)})"
    if count != shard.records:
        return f"{count} of its {shard.records} records can be found"
    return reader


def write_manifest(folder: pathlib.Path) -> None:
    """Writes the sizes and checksums of a dataset's files as they are now."""
    with_records = {
        shard.path.name: shard.records
        for shards in _described_shards(folder).values()
        for shard in shards
    }
    files = {}
    for name in (*_DESCRIPTIONS, *with_records):
        if (folder / name).is_file():
            files[name] = {
                "bytes": (folder / name).stat().st_size,
                "sha256": checksum(folder / name),
            }
        if name in with_records:
            files[name]["records"] = with_records[name]
    with whole_file(folder / MANIFEST) as part:
        part.write_text(
            json.dumps({"format": _FORMAT, "files": files}, indent=1) + "\n"
        )


def read_manifest(folder: pathlib.Path) -> dict[str, dict[str, Any]] | None:
    """File name -> its `bytes`, `sha256` and, of shards, `records`; None without one.

    Raises:
      InputError: a damaged manifest.
    """
    path = folder / MANIFEST
    if not path.exists():
        return None
    try:
        manifest = safe_files.read_json(path)
        if manifest["format"] != _FORMAT:
            raise ValueError(f"format {manifest['format']}, this code reads {_FORMAT}")
        for name, entry in manifest["files"].items():
            safe_files.inside(folder, name)
            if not isinstance(entry["bytes"], int) or len(entry["sha256"]) != 64:
                raise ValueError(f"no size and checksum of {name}")
        return manifest["files"]
    except ODD_CONTENT as error:
        raise InputError(
            f"{path}: damaged ({one_line(error)}); {AGAIN}", reason="unreadable"
        ) from error


def damaged_files(
    folder: pathlib.Path,
    manifest: dict[str, dict[str, Any]],
    on_file: Callable[[str], None] = lambda name: None,
) -> Iterator[tuple[str, str]]:
    """Reads every file of a manifest: (name, what is wrong) of those that differ."""
    for name, entry in manifest.items():
        on_file(name)
        path = folder / name
        try:
            size = path.stat().st_size
            if size != entry["bytes"]:
                yield name, f"{size} bytes long instead of {entry['bytes']}"
            elif checksum(path) != entry["sha256"]:
                yield name, "its checksum is not that of the manifest"
        except FileNotFoundError:
            yield name, "missing"
        except OSError as error:
            yield name, f"cannot be read ({one_line(error)})"


def checksum(path: pathlib.Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

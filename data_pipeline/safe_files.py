"""Arrays and JSON from files that nobody vouches for: bounded, and never a pickle.

The readers raise `ValueError` and `OSError` only; the caller knows what the file should
have been and makes an `InputError` of them.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import pathlib
import zipfile
from collections.abc import Collection, Iterator
from typing import Any

import numpy as np

MAX_JSON_BYTES = 2**26
_MAX_MEMBERS = 100_000
_CHUNK = 2**20
# Plain numbers, truth values and text: what a file may hold.
_KINDS = frozenset("biufU")


def read_npz(
    path: str | os.PathLike, max_bytes: int, names: Collection[str] | None = None
) -> dict[str, np.ndarray]:
    """The arrays of an `.npz` file.

    Sizes are checked before anything is unpacked, so a small file cannot ask for much
    memory. Members are read by name into memory and never written anywhere.

    Args:
      path: the file.
      max_bytes: that all arrays together may take.
      names: those to read; None reads all.

    Raises:
      ValueError, OSError: whatever is wrong with the file.
    """
    with _only_value_errors(), zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        stored = {member.filename: member for member in members}
        if len(stored) != len(members) or len(members) > _MAX_MEMBERS:
            raise ValueError("holds two arrays of one name, or far too many")
        if names is None:
            names = [name.removesuffix(".npy") for name in stored]
        if missing := [name for name in names if f"{name}.npy" not in stored]:
            raise ValueError(f"holds no array {missing[0]!r}")
        chosen = {name: stored[f"{name}.npy"] for name in names}
        total = sum(member.file_size for member in chosen.values())
        if total > max_bytes:
            raise ValueError(
                f"unpacks to {total / 1e6:.0f} MB, more than the limit of "
                f"{max_bytes / 1e6:.0f} MB"
            )
        return {
            name: _read_member(archive, member, name) for name, member in chosen.items()
        }


def read_json(path: str | os.PathLike) -> Any:
    """The value in a JSON file of at most 64 MiB.

    Raises:
      ValueError, OSError: whatever is wrong with the file.
    """
    with open(path, "rb") as file:
        text = file.read(MAX_JSON_BYTES + 1)
    if len(text) > MAX_JSON_BYTES:
        raise ValueError(f"more than {MAX_JSON_BYTES / 1e6:.0f} MB of JSON")
    return parse_json(text)


def parse_json(text: bytes) -> Any:
    """The value of a JSON text.

    Raises:
      ValueError: it is no such text.
    """
    with _only_value_errors():
        return json.loads(text)


def inside(folder: pathlib.Path, name: str) -> pathlib.Path:
    """The file `name` of `folder`, where a file's own text gave the name.

    Raises:
      ValueError: the name leads elsewhere.
    """
    if not name or name in (".", "..") or set(name) & set("/\\\0"):
        raise ValueError(f"{name!r} is not the name of a file in {folder}")
    return folder / name


def _read_member(
    archive: zipfile.ZipFile, member: zipfile.ZipInfo, name: str
) -> np.ndarray:
    """One array, whose header must tell the truth about its size."""
    with archive.open(member) as file:
        version = np.lib.format.read_magic(file)
        if version == (1, 0):
            shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
        elif version == (2, 0):
            shape, fortran, dtype = np.lib.format.read_array_header_2_0(file)
        else:
            raise ValueError(f"{name!r} is in version {version} of the format")
        if dtype.kind not in _KINDS or dtype.hasobject:
            raise ValueError(f"{name!r} holds {dtype}, not plain numbers or text")
        if any(side < 0 for side in shape):
            raise ValueError(f"{name!r} has the shape {shape}")
        size = math.prod(shape) * dtype.itemsize
        if size != member.file_size - file.tell():
            raise ValueError(f"{name!r} is said to take {size} bytes but does not")
        array = np.empty(math.prod(shape), dtype)
        target, done = array.view(np.uint8), 0
        while chunk := file.read(_CHUNK):  # to the end, where the checksum is checked
            target[done : done + len(chunk)] = np.frombuffer(chunk, np.uint8)
            done += len(chunk)
    if done != size:
        raise ValueError(f"{name!r} is cut off")
    return array.reshape(shape, order="F" if fortran else "C")


@contextlib.contextmanager
def _only_value_errors() -> Iterator[None]:
    """Parsers of foreign bytes raise nearly anything: one type is enough."""
    try:
        yield
    except (ValueError, OSError):
        raise
    except MemoryError as error:
        raise ValueError("does not fit into memory") from error
    except Exception as error:
        # zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError,
        # RuntimeError (an encrypted member), RecursionError, struct.error ...
        text = str(error) or type(error).__name__
        raise ValueError(text) from error

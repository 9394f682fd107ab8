"""Finished records on their way into the dataset: what a killed run keeps."""

from __future__ import annotations

import collections
import contextlib
import fcntl
import hashlib
import json
import os
import pathlib
import re
from collections.abc import Iterator
from typing import Any

import numpy as np

from data_pipeline import packing, safe_files
from data_pipeline.errors import InputError
from data_pipeline.records import Counts, Settings
from data_pipeline.voxceleb import Video

_MAX_BYTES = 2**33  # of one record; all frames of a long video
# Names by `work_file`, and what a kill leaves of one that was being written.
_WORK_FILE = re.compile(r"[0-9a-f]{32}\.npz|\.[0-9a-f]{32}\.[0-9a-f]{8}\.part\.npz")


def work_file(folder: pathlib.Path, video: Video, settings: Settings) -> pathlib.Path:
    """Where the finished record of a video waits, until all are finished.

    The name changes with the settings and with every file that the video is made of.
    """
    sources = []
    for path in (*video.utterances, *video.boxes):
        try:
            stat = os.stat(path)
            sources.append((path.name, stat.st_size, stat.st_mtime_ns))
        except OSError:  # a link to nothing: preparing it will say so
            sources.append((path.name, None, None))
    identity = (settings.to_dict(), video.key, video.identity, sources)
    digest = hashlib.sha256(json.dumps(identity).encode()).hexdigest()
    return folder / digest[:2] / f"{digest[:32]}.npz"


def remove_all(folder: pathlib.Path) -> None:
    """Deletes the work files below a folder, and what is empty without them.

    What else lies there is somebody's: a user may have had a folder of this name.
    """
    for path in folder.glob("[0-9a-f][0-9a-f]/*"):
        if _WORK_FILE.fullmatch(path.name):
            with contextlib.suppress(OSError):
                path.unlink()
    for empty in (*folder.glob("[0-9a-f][0-9a-f]"), folder):
        with contextlib.suppress(OSError):
            empty.rmdir()


@contextlib.contextmanager
def alone(data_dir: pathlib.Path) -> Iterator[None]:
    """Keeps a second packer out of a folder for as long as this process lives.

    Where the storage knows no locks, there is none.

    Raises:
      InputError: `busy`: another process has the folder; `unwritable`.
    """
    path = data_dir / ".prepare.lock"
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        file = path.open("w")
    except OSError as error:
        raise InputError(
            f"{data_dir}: cannot be written to ({error.strerror}); name a folder that can",
            reason="unwritable",
        ) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(
                f"{data_dir}: another `prepare` is at work here; wait for it, or let both "
                "do a part by --share",
                reason="busy",
            ) from error
        except OSError:
            pass
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def save_work(path: pathlib.Path, example: dict | None, counts: Counts) -> None:
    """Writes what `prepare_video` returned; the whole file or none."""
    arrays = {}
    header = {"counts": vars(counts)}
    if example is not None:
        header.update({k: example[k] for k in ("video", "identity", "utterance")})
        arrays = {k: example[k] for k in ("landmarks", "frame_time")}
        for name in ("frames", "rasters"):
            arrays[name], arrays[f"{name}_sizes"] = packing.pack(example[name])
    header = np.frombuffer(json.dumps(header).encode(), np.uint8)
    packing.save_npz(path, header=header, **arrays)


def load_counts(path: pathlib.Path) -> Counts | None:
    """The counts in a work file, or None if there is no good one."""
    try:
        header = safe_files.read_npz(path, _MAX_BYTES, ["header"])["header"]
        counts = safe_files.parse_json(header.tobytes())["counts"]
        for name in ("dropped", "files"):
            counts[name] = collections.Counter(counts[name])
        return Counts(**counts)
    except Exception:  # no matter why: it is made again
        return None


def load_example(path: pathlib.Path) -> dict[str, Any]:
    """The example in a work file that has one. Raises nearly anything."""
    stored = safe_files.read_npz(path, _MAX_BYTES)
    header = safe_files.parse_json(stored["header"].tobytes())
    del header["counts"]
    return {
        **header,
        **{name: stored[name] for name in ("landmarks", "frame_time")},
        **{
            name: packing.unpack(stored[name], stored[f"{name}_sizes"])
            for name in ("frames", "rasters")
        },
    }

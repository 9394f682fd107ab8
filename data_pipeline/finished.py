"""A dataset that is there: found, compared with what is asked for, completed after a kill."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import rich.console

from data_pipeline import safe_files, shards, work_files
from data_pipeline.errors import InputError
from data_pipeline.records import Counts, Settings
from data_pipeline.report import make_report, write_report
from data_pipeline.voxceleb import Video

NAME = "talking_heads"
WORK = "work"  # folder in `data_dir`


def find_datasets(data_dir: pathlib.Path) -> list[pathlib.Path]:
    """The folders of the finished datasets in `data_dir`, which may itself be one."""
    infos = [data_dir / "dataset_info.json"]
    infos += data_dir.glob(f"{NAME}/*/*/dataset_info.json")
    return sorted(
        info.parent
        for info in infos
        if info.is_file() and "incomplete" not in info.parent.name
    )


def complete(
    finished: Sequence[pathlib.Path],
    source: str | os.PathLike,
    data_dir: pathlib.Path,
    settings: Settings,
    videos: Sequence[Video] | None,
    console: rich.console.Console,
) -> dict[str, Any]:
    """Does what a killed run left undone, and returns the report.

    Args:
      finished: from `find_datasets`.
      videos: of `source`; None where that is gone.

    Raises:
      InputError: `other_settings`, `other_corpus`: it is not what is asked for.
    """
    try:
        metadata = safe_files.read_json(finished[0] / "metadata.json")
        same = metadata["settings"] == settings.to_dict()
    except (OSError, ValueError, KeyError, TypeError):
        same = False
    if not same:
        raise InputError(
            f"{finished[0]}: holds a dataset that was prepared with other settings; "
            "name another data_dir or delete this one",
            reason="other_settings",
        )
    work, path = data_dir / WORK, data_dir / "report.json"
    report = {"splits": {}, "settings": settings.to_dict()}
    with contextlib.suppress(OSError, ValueError):
        report = safe_files.read_json(path)
    if videos and not path.exists():  # killed after packing: the counts are in `work`
        counts = {
            v.key: work_files.load_counts(work_files.work_file(work, v, settings))
            for v in videos
        }
        if all(counts.values()):
            report = full_report(source, videos, counts, settings)
            with contextlib.suppress(OSError):  # read-only
                write_report(path, report)
    if videos:
        corpus = _corpus(videos)
        before = corpus | report.get("corpus", {})  # an older version's has less in it
        if before != corpus:
            same = all(before[key] == corpus[key] for key in ("videos", "sha256"))
            others = "these videos as they were before some of their files changed"
            if not same:
                others = "other videos, or of the same in another split"
            raise InputError(
                f"{finished[0]}: holds a dataset of {others}; name another data_dir or "
                "delete this one",
                reason="other_corpus",
            )
    work_files.remove_all(work)  # of a run killed at the end
    if shards.read_manifest(finished[0]) is None:  # killed, or an older version's
        with contextlib.suppress(OSError):  # read-only
            shards.write_manifest(finished[0])
    console.print(
        f"{finished[0]}: already prepared, nothing to do.", markup=False, soft_wrap=True
    )
    return report


def full_report(
    source: str | os.PathLike,
    videos: Sequence[Video],
    counts: Mapping[str, Counts],
    settings: Settings,
) -> dict[str, Any]:
    """What `report.json` says, but for the time it took."""
    return {
        "source": str(source),
        "corpus": _corpus(videos),
        "settings": settings.to_dict(),
        **make_report(videos, counts),
    }


def _corpus(videos) -> dict[str, Any]:
    """Which videos are in which split, and how large their files are."""
    names = [(video.key, video.split) for video in videos]
    files = [
        (path.name, _size(path))
        for video in videos
        for path in (*video.utterances, *video.boxes)
    ]
    return {"videos": len(videos), "sha256": _digest(names), "files": _digest(files)}


def _size(path: pathlib.Path) -> int | None:
    """Bytes; None of a file that is gone."""
    try:
        return path.stat().st_size
    except OSError:
        return None


def _digest(values: list) -> str:
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()

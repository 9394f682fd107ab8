"""What became of a corpus: dicts for `report.json`, tables to read."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import rich.console
import rich.table

from data_pipeline.outputs import whole_file
from data_pipeline.records import Counts
from data_pipeline.voxceleb import Video

_MAX_PROBLEMS = 10_000
_SHOWN = 20  # problems of a check that are printed


def make_report(
    videos: Sequence[Video], counts: Mapping[str, Counts]
) -> dict[str, Any]:
    """Adds up the counts of each split.

    Returns:
      `splits`: per split, `videos` with a record, `videos_without_face`, `frames` in
      records, frames `decoded`, frames `dropped` by reason, broken `files` by reason,
      `worker_seconds`, and decoded `frames_per_second` of one worker; and
      `problems`: a line for each broken file.
    """
    splits, problems = {}, []
    for split in sorted({video.split for video in videos}, reverse=True):
        total, with_record = Counts(), 0
        members = [video for video in videos if video.split == split]
        for video in members:
            total.add(counts[video.key])
            with_record += counts[video.key].kept > 0
        problems += total.problems
        splits[split] = {
            "videos": with_record,
            "videos_without_face": len(members) - with_record,
            "people": len({v.identity for v in members if counts[v.key].kept}),
            "frames": total.kept,
            "decoded": total.decoded,
            "dropped": dict(total.dropped.most_common()),
            "files": dict(total.files.most_common()),
            "worker_seconds": round(total.seconds, 2),
            "frames_per_second": round(total.decoded / max(total.seconds, 1e-9), 1),
        }
    return {"splits": splits, "problems": problems[:_MAX_PROBLEMS]}


def write_report(path: pathlib.Path, report: Mapping[str, Any]) -> None:
    """Writes the whole file or none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as part:
        text = json.dumps(report, indent=2, ensure_ascii=False)
        part.write_text(f"{text}\n", encoding="utf-8")


def print_report(report: Mapping[str, Any], console: rich.console.Console) -> None:
    """A table with one column per split."""
    splits = report["splits"]
    table = rich.table.Table("", title=f"Prepared in {report['seconds']:.0f} s")
    for split in splits:
        table.add_column(split, justify="right")
    rows = {
        "people": "people",
        "videos": "videos",
        "videos_without_face": "videos without a usable frame",
        "frames": "frames kept",
        "decoded": "frames decoded",
        "frames_per_second": "decoded per second and worker",
    }
    for key, title in rows.items():
        if any(key in split for split in splits.values()):
            table.add_row(title, *(str(s.get(key, "")) for s in splits.values()))
    for kind, title in (("dropped", "frames dropped"), ("files", "files broken")):
        reasons = {
            reason for split in splits.values() for reason in split.get(kind, {})
        }
        for reason in sorted(reasons):
            numbers = (str(s.get(kind, {}).get(reason, 0)) for s in splits.values())
            table.add_row(f"{title}: {reason}", *numbers)
    console.print(table)


def print_check(report: Mapping[str, Any], console: rich.console.Console) -> None:
    """What `check.check_dataset` found: a table, the lines, a verdict."""
    splits = report["splits"]
    table = rich.table.Table("", title=report["path"])
    for split in splits:
        table.add_column(split, justify="right")
    titles = {
        "people": "people",
        "videos": "videos",
        "damaged_videos": "damaged videos",
        "frames": "frames",
        "frames_per_video": "frames of a video (least, median, most)",
        "shards": "files",
        "megabytes": "MB",
        "eye_distance": "eye distance / side (1 %, 50 %, 99 %)",
        "frames_with_odd_eyes": "frames with odd eyes",
        "frames_with_landmarks_outside": "frames with a landmark outside",
        "repeated_frames": "repeated frames",
    }
    for key, title in titles.items():
        values = (split[key] for split in splits.values())
        table.add_row(
            title,
            *(
                " ".join(f"{v:g}" for v in value)
                if isinstance(value, list)
                else f"{value:,}"
                for value in values
            ),
        )
    console.print(table)
    for pair in report["nearest_people"][:3]:
        (a, b), (one, other) = pair["splits"], pair["people"]
        console.print(
            f"alike: {one} ({a}) and {other} ({b}), descriptors "
            f"{pair['distance']:.2f} apart",
            markup=False,
        )
    for kind in ("warnings", "problems"):
        for line in report[kind][:_SHOWN]:
            console.print(f"{kind[:-1]}: {line}", markup=False, soft_wrap=True)
        if (more := len(report[kind]) - _SHOWN) > 0:
            console.print(f"... and {more} more {kind}")
    if report["problems"]:
        console.print(f"NOT INTACT: {len(report['problems'])} problems")
    elif report["warnings"]:
        console.print("Intact; see the warnings.")
    else:
        console.print("Intact: every file is as its checksum says.")

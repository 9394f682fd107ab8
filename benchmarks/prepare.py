"""Frames per second of `prepare`, and what VoxCeleb2 would take.

python -m benchmarks.prepare --source CORPUS --layout voxceleb2 --size 256
"""

from __future__ import annotations

import argparse
import json
import pathlib
import tempfile
import time

from benchmarks import report

_VOXCELEB2_HOURS, _FRAMES_PER_SECOND = 2_440, 25
_VOXCELEB2_VIDEOS = 145_569


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    report.add_flags(parser)
    parser.add_argument("--source", required=True)
    parser.add_argument("--layout", default="voxceleb2")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--frames-per-video", type=int, default=64)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    flags = parser.parse_args()
    rows = [_prepare(flags, workers) for workers in flags.workers]
    about = {"source": flags.source, "size": flags.size, **report.machine()}
    about["frames per video"] = flags.frames_per_video
    report.show("prepare", rows, about, flags.json)


def _prepare(flags: argparse.Namespace, workers: int) -> dict:
    from data_pipeline.prepare import prepare  # imports TensorFlow

    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        prepare(
            flags.source,
            flags.layout,
            folder,
            size=flags.size,
            frames_per_video=flags.frames_per_video,
            workers=workers,
        )
        seconds = time.perf_counter() - start
        splits = json.loads(pathlib.Path(folder, "report.json").read_text())["splits"]
        data = sum(
            f.stat().st_size for f in pathlib.Path(folder).rglob("*array_record*")
        )
    decoded = sum(split["decoded"] for split in splits.values())
    kept = sum(split["frames"] for split in splits.values())
    rate = decoded / sum(split["worker_seconds"] for split in splits.values())
    everything = _VOXCELEB2_HOURS * 3_600 * _FRAMES_PER_SECOND
    return {
        "workers": workers,
        "seconds": seconds,
        "decoded": decoded,
        "frames_per_s_per_worker": rate,
        "frames_per_s": decoded / seconds,
        "kb_per_kept_frame": data / kept / 1e3,
        "voxceleb2_core_days_every_frame": everything / rate / 86_400,
        "voxceleb2_tb": data / kept * flags.frames_per_video * _VOXCELEB2_VIDEOS / 1e12,
    }


if __name__ == "__main__":
    main()

"""Frames per second of `prepare`, what VoxCeleb2 would take, and where the time goes.

python -m benchmarks.prepare --source CORPUS --layout voxceleb2 --size 256
"""

from __future__ import annotations

import argparse
import contextlib
import json
import pathlib
import tempfile
import time
from collections.abc import Callable

import numpy as np

from benchmarks import report
from data_pipeline import landmarks
from data_pipeline.errors import InputError
from data_pipeline.tracking import FaceTracker
from data_pipeline.video import read_frames
from data_pipeline.voxceleb import find_videos

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
    parser.add_argument("--clips", type=int, default=12, help="to find landmarks in")
    flags = parser.parse_args()
    rows = [_prepare(flags, workers) for workers in flags.workers]
    about = {"source": flags.source, "size": flags.size, **report.machine()}
    about["frames per video"] = flags.frames_per_video
    report.show("prepare", rows, about, flags.json)
    if found := _ways_to_find(flags):
        path = flags.json and flags.json.with_suffix(".landmarks.json")
        title = f"finding landmarks, one core, {flags.clips} clips"
        report.show(title, found, about, path)


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


def _ways_to_find(flags: argparse.Namespace) -> list[dict]:
    """What following a face saves over searching it in every frame."""
    cropped = flags.layout == "voxceleb2"
    videos = find_videos(flags.source, flags.layout)
    clips = [u for video in videos for u in video.utterances if u.suffix != ".jpg"]
    ways: dict[str, Callable[[], Callable[[np.ndarray], object]]] = {
        "decoding alone": lambda: lambda frame: None,
        "detector and one prediction in every frame": lambda: _search,
        "following in every frame": lambda: FaceTracker(cropped).update,
    }
    landmarks.detect(np.zeros((80, 80, 3), np.uint8), 80)  # loads dlib's files
    rows = []
    for name, make in ways.items():
        frames = found = 0
        start = time.perf_counter()
        for clip in clips[: flags.clips]:
            see = make()
            with contextlib.suppress(InputError):  # as `prepare` skips it
                for _, frame in read_frames(clip):
                    found += see(frame) is not None
                    frames += 1
        if frames:
            rate = frames / (time.perf_counter() - start)
            rows.append({"way": name, "frames_per_s": rate, "frames": frames})
            rows[-1]["with_landmarks"] = found / frames
    return rows


def _search(frame: np.ndarray) -> object:
    """As pipelines without a tracker do; at the frame's own resolution."""
    boxes = landmarks.detect(frame, max(frame.shape))
    return landmarks.fit_landmarks(frame, boxes[0][0], rounds=1) if boxes else None


if __name__ == "__main__":
    main()

"""Self-reenactment of held-out people: how far the drawn frames are from the true ones.

Few-shot and hold-out frames of a video are disjoint and drawn by a fixed seed; the
sets for fewer shots are parts of those for more. Two baselines draw nothing: the first
source photo, and the source photo whose landmarks are nearest to the driver's.
"""

from __future__ import annotations

import collections
import json
import pathlib
from collections.abc import Sequence

import numpy as np
from PIL import Image

from data_pipeline import geometry
from data_pipeline.archive import Archive
from data_pipeline.errors import InputError
from data_pipeline.landmarks import find_faces
from flax_heads.console import log, progress
from flax_heads.figures import contact_sheet
from flax_heads.meta_model import MetaModel, fine_tune, load_model
from flax_heads.training_data import held_out_archive

_DETECTION_SIZE = 256  # frames are enlarged to this for the landmark detector
_SHEET_PEOPLE = 6


def evaluate_held_out(
    workdir: str | pathlib.Path,
    output: str | pathlib.Path,
    *,
    data_dir: str | None = None,
    shots: Sequence[int] = (1, 8),
    num_videos: int = 50,
    num_frames: int = 32,
    num_iterations: int | None = None,
    seed: int = 0,
) -> list[dict]:
    """Evaluates the model of a training run on people it never saw.

    Args:
      workdir: of the training run.
      output: folder for `report.json`, `report.md` and `people_T<T>.png`.
      data_dir: prepared records whose `test` split to use; by default the people that
        the run itself kept aside.
      shots: numbers T of source photos.
      num_videos: at most so many videos; of different people as far as they go.
      num_frames: hold-out frames of each video.
      num_iterations: of fine-tuning; the model's config says by default.
      seed: of the choice of frames.

    Returns:
      one dict per method and T: mean L1 of frames in [0, 1], landmark error (mean
      distance over the inter-ocular one), share of frames without a detected face.

    Raises:
      InputError: no model, no held-out people, or videos with too few frames.
    """
    model = load_model(workdir)
    people = held_out_archive(model.config, workdir, data_dir)
    videos = _videos(people, max(shots) + num_frames, num_videos)
    output = pathlib.Path(output)
    output.mkdir(parents=True, exist_ok=True)
    iterations = num_iterations
    if iterations is None:
        iterations = model.config.fine_tune.num_iterations
    rows = []
    for t in shots:
        scores: dict[str, list] = {}
        sheet: dict[str, list] = {}
        with progress(f"T={t}", len(videos)) as show:
            for done, video in enumerate(videos, start=1):
                sources, targets = _split(
                    people, video, t, max(shots), num_frames, seed
                )
                drawn = _methods(model, people, sources, targets, iterations)
                for name, frames in drawn.items():
                    scores.setdefault(name, []).append(
                        score(frames, people.frames[targets], people.landmarks[targets])
                    )
                if done <= _SHEET_PEOPLE:
                    shown = {"source": people.frames[sources], **drawn}
                    shown["truth"] = people.frames[targets]
                    for name, frames in shown.items():
                        sheet.setdefault(name, []).append(frames[0])
                show(done)
                log.info("T=%d: %d of %d videos", t, done, len(videos))
        for name, per_video in scores.items():
            l1, error, missing = (_mean(values) for values in zip(*per_video))
            row = {"shots": t, "method": name, "l1": l1}
            rows.append(row | {"landmark_error": error, "no_face": missing})
        picture = contact_sheet({name: np.stack(fs) for name, fs in sheet.items()})
        Image.fromarray(picture).save(output / f"people_T{t}.png")
        _write_report(output, rows, model, len(videos), num_frames, iterations, seed)
    return rows


def score(
    frames: np.ndarray, truth: np.ndarray, landmarks: np.ndarray
) -> tuple[float, float, float]:
    """(L1 in [0, 1], landmark error, share of frames without a face) of one video.

    The landmark error compares what the detector finds on `frames` with `landmarks`,
    over the frames in which it finds a face; NaN if there is none.

    Args:
      frames, truth: uint8 [F, H, W, 3].
      landmarks: float32 [F, 68, 2], of the truth.
    """
    l1 = np.abs(frames.astype(np.float32) - truth).mean() / 255
    errors = []
    for frame, true_points in zip(frames, landmarks):
        size = max(_DETECTION_SIZE, len(frame))
        large = Image.fromarray(frame).resize((size, size), Image.Resampling.BICUBIC)
        if faces := find_faces(np.asarray(large)):
            found = geometry.resize_points(faces[0].landmarks, size, len(frame))
            distance = np.linalg.norm(found - true_points, axis=-1).mean()
            errors.append(distance / geometry.inter_ocular(true_points))
    missing = 1 - len(errors) / len(frames)
    return float(l1), float(np.mean(errors)) if errors else float("nan"), missing


def _videos(people: Archive, needed: int, most: int) -> list[int]:
    """Long enough videos: the first of every person, then the seconds, and so on."""
    lengths = people.frames_per_video
    videos = [v for v in range(people.num_videos) if lengths[v] >= needed]
    if not videos:
        raise InputError(
            f"no held-out video has the {needed} frames needed (longest: "
            f"{max(lengths, default=0)}); lower --frames or --shots, or prepare more",
            reason="too_few_frames",
        )
    seen: collections.Counter = collections.Counter()
    turns = {}
    for v in videos:
        turns[v] = seen[people.identities[v]]
        seen[people.identities[v]] += 1
    return sorted(videos, key=turns.get)[:most]


def _split(people, video, t, largest, num_frames, seed):
    """Row numbers (sources [t], targets [num_frames]) of one video, disjoint."""
    start, end = people.video_offset[video], people.video_offset[video + 1]
    order = start + np.random.default_rng((seed, video)).permutation(end - start)
    return order[:t], order[largest : largest + num_frames]


def _methods(
    model: MetaModel, people: Archive, sources, targets, iterations
) -> dict[str, np.ndarray]:
    """Each method's frames for the targets, uint8 [F, H, W, 3]."""
    photos, points = people.frames[sources], people.landmarks[sources]
    wanted = people.landmarks[targets]
    nearest = np.square(wanted[:, None] - points[None]).sum((2, 3)).argmin(1)
    forward = fine_tune(model, photos, points, num_iterations=0)
    tuned = fine_tune(model, photos, points, num_iterations=iterations)
    return {
        "first photo": np.repeat(photos[:1], len(targets), 0),
        "nearest photo": photos[nearest],
        "feed-forward": np.stack(list(forward.animate(wanted))),
        "fine-tuned": np.stack(list(tuned.animate(wanted))),
    }


def _mean(values: Sequence[float]) -> float | None:
    """Over the videos that have the number; None where none has."""
    finite = [value for value in values if np.isfinite(value)]
    return float(np.mean(finite)) if finite else None


def _write_report(output, rows, model, num_videos, num_frames, iterations, seed):
    report = {
        "model": model.source,
        "step": model.step,
        "config": model.config.to_dict(),
        "videos": num_videos,
        "frames": num_videos * num_frames,
        "iterations": iterations,
        "seed": seed,
        "results": rows,
    }
    (output / "report.json").write_text(json.dumps(report, indent=2) + "\n")
    lines = [
        f"{num_videos} held-out videos, {num_videos * num_frames} frames; "
        f"landmarks by dlib.",
        "",
        "| T | method | L1 | landmark error | no face |",
        "|---|---|---|---|---|",
    ]
    for r in rows:
        error = r["landmark_error"]
        shown = "-" if error is None else f"{error:.4f}"
        lines.append(
            f"| {r['shots']} | {r['method']} | {r['l1']:.4f} | {shown} "
            f"| {r['no_face']:.1%} |"
        )
    text = "\n".join(lines) + "\n"
    (output / "report.md").write_text(text)
    log.info("%s\n%s", output / "report.md", text)

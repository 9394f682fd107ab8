"""Self-reenactment of held-out people, by the paper's protocol (section 4, SPEC 6).

Few-shot and hold-out frames of a video are disjoint and drawn by a fixed seed; the
sets for fewer shots are parts of those for more. What has been scored stays in
`OUTPUT/scores`: the same command again goes on where it was.
"""

from __future__ import annotations

import ast
import collections
import dataclasses
import hashlib
import json
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np

from data_pipeline.archive import Archive
from data_pipeline.errors import InputError
from flax_heads import baselines, evaluation_report, recipe
from flax_heads.console import log, progress
from flax_heads.meta_model import MetaModel, fine_tune, load_model
from flax_heads.scores import Judges, describe, make_judges, score_video
from flax_heads.training_data import held_out_archive

VARIANTS = ("ff", "ft")


def evaluate_held_out(
    workdir: str | pathlib.Path,
    output: str | pathlib.Path,
    *,
    data_dir: str | None = None,
    shots: Sequence[int] = (1, 8, 32),
    variants: Sequence[str] = VARIANTS,
    ff_model: str | pathlib.Path | None = None,
    num_videos: int = 50,
    num_frames: int = 32,
    fine_tune_fields: Sequence[str] = (),
    judges: Judges | None = None,
    seed: int = 0,
) -> list[dict]:
    """Evaluates the model of a training run on people it never saw.

    Args:
      workdir: of the training run.
      output: folder of the report: `report.json`, `report.md`, plots and `grid.png`.
      data_dir: prepared records whose `test` split to use; by default the people that
        the run itself kept aside.
      shots: numbers T of source photos.
      variants: "ff" (feed-forward), "ft" (fine-tuned) or both.
      ff_model: workdir of a run of the FF variant, whose feed-forward frames are then
        shown as well; the model's own are its frames before fine-tuning.
      num_videos: at most so many videos; of different people as far as they go.
      num_frames: hold-out frames of each video.
      fine_tune_fields: `field=value` in place of the config's `fine_tune.field`.
      judges: from `scores.make_judges`.
      seed: of the choice of frames and of fine-tuning.

    Returns:
      `results` of the report: for each T and method, each metric's mean over videos
      and its 95 % interval.

    Raises:
      InputError: no model, no held-out people, videos with too few frames, or another
        evaluation in `output`.
    """
    judges = judges or make_judges()
    model = _with_fine_tuning(load_model(workdir), fine_tune_fields)
    ff = load_model(ff_model) if ff_model else None
    people = held_out_archive(model.config, workdir, data_dir)
    videos = choose_videos(people, max(shots) + num_frames, num_videos)
    splits = [split(people, v, max(shots), num_frames, seed) for v in videos]
    rows = np.concatenate([np.concatenate(s) for s in splits])
    settings = {
        "model": {"path": model.source, "step": model.step, "sha256": _hash(model)},
        "ff_model": ff and {"path": ff.source, "step": ff.step, "sha256": _hash(ff)},
        "data": {
            "path": data_dir or model.config.data.path or model.config.data.kind,
            "videos": [people.videos[v] for v in videos],
            "identities": [people.identities[v] for v in videos],
            "sha256": _digest(people.frames[rows], people.landmarks[rows]),
        },
        "size": people.size,
        "shots": list(shots),
        "variants": list(variants),
        "frames_per_video": num_frames,
        "fine_tune": model.config.fine_tune.to_dict(),
        "judges": dict(judges.weights),
        "seed": seed,
    }
    output = pathlib.Path(output)
    done = _open_scores(output, settings)

    drawers = [
        (t, v, sources[:t], targets)
        for t in shots
        for v, (sources, targets) in zip(videos, splits)
    ]
    with progress("evaluating", len(drawers)) as show:
        for count, (t, video, sources, targets) in enumerate(drawers, start=1):
            path = done / f"T{t}_{video:05d}.npz"
            if not path.exists():
                methods = draw(model, ff, people, sources, targets, variants, seed)
                truth = people.frames[targets], people.landmarks[targets]
                _save(path, _score_all(methods, people.frames[sources], truth, judges))
            show(count)
            if count % len(videos) == 0:  # all videos of this T
                log.info("T=%d: %d videos scored", t, len(videos))
    scores = {
        (t, video): _load(done / f"T{t}_{video:05d}.npz")
        for t in shots
        for video in videos
    }
    return evaluation_report.write(
        output, settings, recipe.as_json(model.config), scores
    )


def draw(
    model: MetaModel,
    ff_model: MetaModel | None,
    people: Archive,
    sources: np.ndarray,
    targets: np.ndarray,
    variants: Sequence[str],
    seed: int,
) -> Iterator[tuple[str, np.ndarray]]:
    """Each method's frames for the targets: (name, uint8 [F, H, W, 3])."""
    photos, points = people.frames[sources], people.landmarks[sources]
    wanted = people.landmarks[targets]

    def drawn_by(model, **options):
        head = fine_tune(model, photos, points, seed=seed, **options)
        return np.stack(list(head.animate(wanted)))

    yield "nearest", baselines.nearest_frame(photos, points, wanted)
    yield "mean", baselines.mean_frame(photos, len(targets))
    yield "warp", baselines.piecewise_affine_warp(photos, points, wanted)
    if "ff" in variants:
        yield "ff", drawn_by(ff_model or model, num_iterations=0)
    if "ft" in variants:
        if ff_model:
            yield "before_ft", drawn_by(model, num_iterations=0)
        yield "ft", drawn_by(model)


def choose_videos(people: Archive, needed: int, most: int) -> list[int]:
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


def split(
    people: Archive, video: int, most_shots: int, num_frames: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Row numbers (sources [most_shots], targets [num_frames]) of a video, disjoint.

    The first T sources serve T shots; targets are in the order of time.
    """
    start, end = people.video_offset[video], people.video_offset[video + 1]
    order = start + np.random.default_rng((seed, video)).permutation(end - start)
    return order[:most_shots], np.sort(order[most_shots : most_shots + num_frames])


def _with_fine_tuning(model: MetaModel, fields: Sequence[str]) -> MetaModel:
    """The model with some of its `fine_tune` fields replaced."""
    config = model.config.copy_and_resolve_references()
    for item in fields:
        name, _, value = item.partition("=")
        if name not in config.fine_tune or not value:
            raise InputError(
                f"{item}: expected FIELD=VALUE with a field of fine_tune "
                f"({', '.join(config.fine_tune)})",
                reason="config",
            )
        try:
            config.fine_tune[name] = ast.literal_eval(value)
        except (ValueError, SyntaxError, TypeError) as error:
            raise InputError(f"{item}: {error}", reason="config") from error
    return dataclasses.replace(model, config=config)


def _score_all(methods, photos, truth, judges) -> dict[str, np.ndarray]:
    """All of one video's numbers, and its pictures for the grid, as flat arrays."""
    frames, landmarks = truth
    truth_features = describe(frames, landmarks, judges)
    arrays = {"source": photos[0], "truth": frames[0]}
    arrays |= {f"features/truth/{name}": f for name, f in truth_features.items()}
    for method, drawn in methods:
        values, features, seconds = score_video(
            drawn, frames, landmarks, truth_features, judges
        )
        arrays[f"example/{method}"] = drawn[0]
        arrays |= {f"values/{method}/{name}": v for name, v in values.items()}
        arrays |= {f"features/{method}/{name}": f for name, f in features.items()}
        arrays |= {
            f"seconds/{method}/{name}": np.float64(s / len(frames))
            for name, s in seconds.items()
        }
    return arrays


def _open_scores(output: pathlib.Path, settings: dict[str, Any]) -> pathlib.Path:
    """The folder of finished scores, which belong to these settings and no others."""
    folder, path = output / "scores", output / "settings.json"
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(settings, indent=2) + "\n"
    if path.exists():
        before = json.loads(path.read_text())
        differing = [k for k, v in json.loads(text).items() if before.get(k) != v]
        if differing:
            raise InputError(
                f"{output}: holds an evaluation with other settings "
                f"({', '.join(differing)}); choose a new --output, or delete it",
                reason="other_evaluation",
            )
    path.write_text(text)
    return folder


def _save(path: pathlib.Path, arrays: dict[str, np.ndarray]) -> None:
    """All or nothing: a killed evaluation leaves no half file under this name."""
    temporary = path.with_suffix(".tmp")
    with open(temporary, "wb") as file:
        np.savez_compressed(file, **arrays)
    os.replace(temporary, path)


def _load(path: pathlib.Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as arrays:
        return dict(arrays)


def _hash(model: MetaModel) -> str:
    return _digest(*jax.tree.leaves((model.params, model.discriminator)))


def _digest(*arrays) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array))
    return digest.hexdigest()

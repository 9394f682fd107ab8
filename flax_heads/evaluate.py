"""Reenactment of held-out people, by the paper's protocol (section 4).

Self-reenactment: few-shot and hold-out frames of a video are disjoint and drawn by a
fixed seed; the sets for fewer shots are parts of those for more. Cross-reenactment:
rendered people, driven by others, of whom the truth is known. What has been scored
stays in `OUTPUT/scores`: the same command again goes on where it was.
"""

from __future__ import annotations

import ast
import dataclasses
import hashlib
import operator
import pathlib
import zlib
from collections.abc import Iterator, Sequence

import jax
import numpy as np
from flax.traverse_util import flatten_dict

from data_pipeline.errors import InputError
from flax_heads import (
    baselines,
    evaluation_report,
    integrity,
    lpips,
    metrics,
    recipe,
    score_files,
)
from flax_heads.animate import check_transfer
from flax_heads.console import log, progress
from flax_heads.corrections import animate_corrected
from flax_heads.evaluation_data import MODES, Case, cross_cases, self_cases
from flax_heads.meta_model import MetaModel, fine_tune, load_model
from flax_heads.scores import ORACLE, Judges, judge_truth, make_judges, score_video
from flax_heads.training_data import trained_on

VARIANTS = ("ff", "ft")


# Sections of the config that fine-tuning depends on, besides its own.
_OF_FINE_TUNING = ("model", "loss", "perceptual", "optimizer")


def evaluate_held_out(
    workdir: str | pathlib.Path,
    output: str | pathlib.Path,
    *,
    mode: str = "self",
    transfer: str = "absolute",
    data_dir: str | pathlib.Path | None = None,
    shots: Sequence[int] = (1, 8, 32),
    variants: Sequence[str] = VARIANTS,
    ff_model: str | pathlib.Path | None = None,
    num_videos: int = 50,
    num_frames: int = 32,
    fine_tune_fields: Sequence[str] = (),
    corrections: int = 0,
    judges: Judges | None = None,
    seed: int = 0,
) -> list[dict]:
    """Evaluates the model of a training run on people it never saw.

    Args:
      workdir: of the training run.
      output: folder of the report: `report.json`, `report.md`, plots and `grid.png`.
      mode: "self", or "cross": each person in the motion of another, whose landmarks
        drive. The truth of that is known for rendered people only.
      transfer: in cross mode, what of the driver moves the person; see
        `animate.adapt_landmarks`. The truth has the driver's pose.
      data_dir: prepared records whose `test` split to use, or "synthetic": people
        rendered afresh; by default those of the run's own kind that it kept aside.
      shots: numbers T of source photos.
      variants: "ff" (feed-forward), "ft" (fine-tuned) or both.
      ff_model: workdir of a run of the FF variant, whose feed-forward frames are then
        shown as well; the model's own are its frames before fine-tuning.
      num_videos: at most so many videos; of different people as far as they go.
      num_frames: hold-out frames of each video; in cross mode frames of the motion.
      fine_tune_fields: `field=value` in place of the config's `fine_tune.field`.
      corrections: rounds of `corrections.animate_corrected`, shown beside the
        fine-tuned frames without them; 0 shows none.
      judges: from `scores.make_judges`.
      seed: of the choice of frames (in self mode) and of fine-tuning.

    Returns:
      `results` of the report: for each T and method, each metric's mean over people
      and its 95 % interval.

    Raises:
      InputError: no model, no held-out people, videos with too few frames, people
        without a truth in cross mode, corrections of no fine-tuned frames, or another
        evaluation in `output`.
    """
    shots = list(dict.fromkeys(map(operator.index, shots)))
    variants = list(dict.fromkeys(variants))
    counts = {"shots": min(shots, default=0), "num_videos": num_videos}
    counts |= {"num_frames": num_frames, "seed": seed, "corrections": corrections}
    _check_arguments(mode, transfer, variants, counts)
    data_dir = data_dir and str(data_dir)
    judges = judges or make_judges()
    model = _with_fine_tuning(load_model(workdir), fine_tune_fields)
    ff = load_model(ff_model) if ff_model else None
    if ff and (ff.size, ff.style) != (model.size, model.style):
        raise InputError(
            f"{ff_model}: frames of {ff.size} px with {ff.style} cannot stand beside "
            f"{model.size} px with {model.style}; name a model of the same size and "
            "rasters",
            "other_model",
        )
    if judges.lpips is not None and model.size < lpips.SMALLEST:
        raise InputError(
            f"{model.source}: LPIPS needs frames of at least {lpips.SMALLEST} px, the "
            f"model's have {model.size}; leave --lpips out",
            "arguments",
        )
    wanted = (model, data_dir, max(shots), num_frames, num_videos)
    cross = mode == "cross"
    cases = cross_cases(*wanted) if cross else self_cases(*wanted, seed)
    trained = frozenset().union(*(trained_on(m.source) for m in (model, ff) if m))
    if seen := sorted(trained & {case.identity for case in cases}):
        log.warning("a model was trained on %s: not held out", ", ".join(seen))
    settings = {
        "mode": mode,
        "model": {"path": model.source, "step": model.step, "sha256": _hash(model)},
        "ff_model": ff and {"path": ff.source, "step": ff.step, "sha256": _hash(ff)},
        "data": {
            "path": data_dir or model.config.data.path or model.config.data.kind,
            "videos": [case.video for case in cases],
            "identities": [case.identity for case in cases],
            "drivers": [case.driver for case in cases] if cross else None,
            **({"trained_on": seen} if seen else {}),
            "sha256": _digest(*(array for case in cases for array in case.arrays)),
        },
        "transfer": transfer if cross else None,
        "size": model.size,
        "shots": shots,
        "variants": variants,
        "frames_per_video": num_frames,
        "fine_tune": model.config.fine_tune.to_dict(),
        "corrections": corrections or None,
        "judges": dict(judges.weights),
        "seed": seed,
        "scores_version": score_files.SCORES_VERSION,
        "code": [integrity.code_version()],
    }
    config = recipe.as_json(model.config)
    settings["recipe"] = flatten_dict({n: config[n] for n in _OF_FINE_TUNING}, sep=".")
    output = pathlib.Path(output)
    done = score_files.open_scores(output, settings)

    paths = {
        (t, i): done / f"T{t}_{i:05d}.npz" for t in shots for i in range(len(cases))
    }
    scores = {}
    with progress("evaluating", len(paths)) as show:
        for count, ((t, i), path) in enumerate(paths.items(), start=1):
            scores[t, i] = score_files.load(path)
            if scores[t, i] is None:
                landmarks = cases[i].wanted(t, transfer)
                methods = draw(
                    model, ff, cases[i], t, landmarks, variants, corrections, seed
                )
                scores[t, i] = _score_all(methods, cases[i], landmarks, judges)
                score_files.save(path, scores[t, i])
            show(count)
            if count % len(cases) == 0:  # all videos of this T
                log.info("T=%d: %d videos scored", t, len(cases))
    return evaluation_report.write(output, settings, config, scores)


def _check_arguments(mode, transfer, variants, counts: dict[str, int]) -> None:
    """Of `evaluate_held_out`: before anything is rendered, learned or read."""
    if mode not in MODES:
        raise InputError(f"mode {mode!r}: expected {' or '.join(MODES)}", "arguments")
    check_transfer(transfer)
    if not variants or set(variants) - set(VARIANTS):
        raise InputError(
            f"variants {variants}: expected some of {', '.join(VARIANTS)}", "arguments"
        )
    least = {"seed": 0, "corrections": 0}
    for name, value in counts.items():
        if value < least.get(name, 1):
            raise InputError(
                f"{name}: {value}, expected at least {least.get(name, 1)}", "arguments"
            )
    if counts["corrections"] and "ft" not in variants:
        raise InputError(
            "corrections: only fine-tuned frames are corrected; add ft to --variants",
            "arguments",
        )


def draw(
    model: MetaModel,
    ff_model: MetaModel | None,
    case: Case,
    shots: int,
    landmarks: np.ndarray,
    variants: Sequence[str],
    corrections: int,
    seed: int,
) -> Iterator[tuple[str, np.ndarray, bool]]:
    """Each method's frames for landmarks [F, 68, 2], as (name, frames, finite).

    Frames are uint8 [F, H, W, 3]; those of a head whose learning did not stay finite
    are there too, whatever they show: who uses the method gets them. Where another
    person drives, also what becomes of the true landmarks; with `corrections`, also the
    fine-tuned frames after so many rounds.
    """
    photos, points = case.photos[:shots], case.photo_landmarks[:shots]

    tuning = model.config.fine_tune
    if tuning.random_psi or tuning.random_w:  # other noise for everyone
        seed = zlib.crc32(f"{seed} {case.video}".encode())

    wanted = {"": landmarks} | ({ORACLE: case.landmarks} if case.driver else {})

    def drawn_by(name, model, **options):
        head = fine_tune(model, photos, points, seed=seed, **options)
        finite = head.is_finite()
        if not finite:
            log.warning("%s: learning did not stay finite (T=%d)", case.video, shots)
        for suffix, faces in wanted.items():
            yield f"{name}{suffix}", np.stack(list(head.animate(faces))), finite
            if name == "ft" and corrections:
                frames = animate_corrected(head, faces, corrections)
                yield f"{name}_corrected{suffix}", np.stack(list(frames)), finite

    yield "nearest", baselines.nearest_frame(photos, points, landmarks), True
    yield "mean", baselines.mean_frame(photos, len(landmarks)), True
    yield "warp", baselines.piecewise_affine_warp(photos, points, landmarks), True
    if case.driver:
        warped = baselines.piecewise_affine_warp(photos, points, case.landmarks)
        yield "warp_oracle", warped, True
    if "ff" in variants:
        yield from drawn_by("ff", ff_model or model, num_iterations=0)
    if "ft" in variants:
        if ff_model:
            yield from drawn_by("before_ft", model, num_iterations=0)
        yield from drawn_by("ft", model)


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
    recipe.check_fine_tuning(config)
    return dataclasses.replace(model, config=config)


def _score_all(methods, case: Case, wanted, judges) -> dict[str, np.ndarray]:
    """All of one video's numbers, and its pictures for the grid, as flat arrays."""
    truth = judge_truth(case.frames, case.landmarks, judges)
    arrays = {"source": case.photos[0], "truth": truth.frames[0]}
    if case.driver:
        arrays["driver"] = case.driver_frame
        arrays["transfer"] = metrics.normalized_mean_error(wanted, case.landmarks)
    arrays |= {f"features/truth/{name}": f for name, f in truth.features.items()}
    arrays["no_face"] = ~np.isfinite(truth.points).all(axis=(1, 2))
    for method, drawn, finite in methods:
        arrays[f"finite/{method}"] = finite
        values, features, seconds = score_video(drawn, truth, judges)
        arrays[f"example/{method}"] = drawn[0]
        arrays |= {f"values/{method}/{name}": v for name, v in values.items()}
        arrays |= {f"features/{method}/{name}": f for name, f in features.items()}
        arrays |= {
            f"seconds/{method}/{name}": np.float64(s / len(drawn))
            for name, s in seconds.items()
        }
    return {name: np.asarray(array) for name, array in arrays.items()}


def _hash(model: MetaModel) -> str:
    return _digest(*jax.tree.leaves((model.params, model.discriminator)))


def _digest(*arrays) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array))
    return digest.hexdigest()

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
import json
import pathlib
import zlib
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict

from data_pipeline import safe_files
from data_pipeline.errors import InputError
from data_pipeline.outputs import whole_file
from flax_heads import baselines, evaluation_report, integrity, metrics, recipe
from flax_heads.animate import check_transfer
from flax_heads.console import log, progress
from flax_heads.corrections import animate_corrected
from flax_heads.evaluation_data import MODES, Case, cross_cases, self_cases
from flax_heads.meta_model import MetaModel, fine_tune, load_model
from flax_heads.scores import ORACLE, Judges, judge_truth, make_judges, score_video
from flax_heads.training_data import trained_on

VARIANTS = ("ff", "ft")


_MAX_BYTES = 2**32  # of one video's scores
# Sections of the config that fine-tuning depends on, besides its own.
_OF_FINE_TUNING = ("model", "loss", "perceptual", "optimizer")


def evaluate_held_out(
    workdir: str | pathlib.Path,
    output: str | pathlib.Path,
    *,
    mode: str = "self",
    transfer: str = "absolute",
    data_dir: str | None = None,
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
    if mode not in MODES:
        raise InputError(f"mode {mode!r}: expected {' or '.join(MODES)}", "arguments")
    check_transfer(transfer)
    if corrections and "ft" not in variants:
        raise InputError(
            "corrections: only fine-tuned frames are corrected; add ft to --variants",
            "arguments",
        )
    shots, variants = (list(dict.fromkeys(named)) for named in (shots, variants))
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
        "code": [integrity.code_version()],
    }
    config = recipe.as_json(model.config)
    settings["recipe"] = flatten_dict({n: config[n] for n in _OF_FINE_TUNING}, sep=".")
    output = pathlib.Path(output)
    done = _open_scores(output, settings)

    paths = {
        (t, i): done / f"T{t}_{i:05d}.npz" for t in shots for i in range(len(cases))
    }
    scores = {}
    with progress("evaluating", len(paths)) as show:
        for count, ((t, i), path) in enumerate(paths.items(), start=1):
            scores[t, i] = _load(path)
            if scores[t, i] is None:
                landmarks = cases[i].wanted(t, transfer)
                methods = draw(
                    model, ff, cases[i], t, landmarks, variants, corrections, seed
                )
                scores[t, i] = _score_all(methods, cases[i], landmarks, judges)
                _save(path, scores[t, i])
            show(count)
            if count % len(cases) == 0:  # all videos of this T
                log.info("T=%d: %d videos scored", t, len(cases))
    return evaluation_report.write(output, settings, config, scores)


def draw(
    model: MetaModel,
    ff_model: MetaModel | None,
    case: Case,
    shots: int,
    landmarks: np.ndarray,
    variants: Sequence[str],
    corrections: int,
    seed: int,
) -> Iterator[tuple[str, np.ndarray]]:
    """Each method's frames for landmarks [F, 68, 2]: (name, uint8 [F, H, W, 3]).

    Where another person drives, also what becomes of the true landmarks; with
    `corrections`, also the fine-tuned frames after so many rounds.
    """
    photos, points = case.photos[:shots], case.photo_landmarks[:shots]

    tuning = model.config.fine_tune
    if tuning.random_psi or tuning.random_w:  # other noise for everyone
        seed = zlib.crc32(f"{seed} {case.video}".encode())

    wanted = {"": landmarks} | ({ORACLE: case.landmarks} if case.driver else {})

    def drawn_by(name, model, **options):
        head = fine_tune(model, photos, points, seed=seed, **options)
        if not head.is_finite():
            log.warning("%s: learning did not stay finite (T=%d)", case.video, shots)
        for suffix, faces in wanted.items():
            yield f"{name}{suffix}", np.stack(list(head.animate(faces)))
            if name == "ft" and corrections:
                frames = animate_corrected(head, faces, corrections)
                yield f"{name}_corrected{suffix}", np.stack(list(frames))

    yield "nearest", baselines.nearest_frame(photos, points, landmarks)
    yield "mean", baselines.mean_frame(photos, len(landmarks))
    yield "warp", baselines.piecewise_affine_warp(photos, points, landmarks)
    if case.driver:
        warped = baselines.piecewise_affine_warp(photos, points, case.landmarks)
        yield "warp_oracle", warped
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
    for method, drawn in methods:
        values, features, seconds = score_video(drawn, truth, judges)
        arrays[f"example/{method}"] = drawn[0]
        arrays |= {f"values/{method}/{name}": v for name, v in values.items()}
        arrays |= {f"features/{method}/{name}": f for name, f in features.items()}
        arrays |= {
            f"seconds/{method}/{name}": np.float64(s / len(drawn))
            for name, s in seconds.items()
        }
    return {name: np.asarray(array) for name, array in arrays.items()}


def _open_scores(output: pathlib.Path, settings: dict[str, Any]) -> pathlib.Path:
    """The folder of finished scores, which belong to these settings and no others.

    Those of other versions of the code are kept, and `settings` names all versions.
    """
    folder, path = output / "scores", output / "settings.json"
    folder.mkdir(parents=True, exist_ok=True)
    if path.exists():
        try:
            before = safe_files.read_json(path)
            known, asked = _binding(before), _binding(json.loads(json.dumps(settings)))
        except (ValueError, AttributeError) as error:
            raise InputError(
                f"{path}: is damaged ({error}), so that what the scores beside it are of "
                "is not known; choose a new --output, or delete the folder",
                reason="damaged",
            ) from error
        # Fields that an older evaluation did not know had the values of now.
        known["recipe"] = asked.get("recipe", {}) | known.get("recipe", {})
        if differing := [key for key in asked if known.get(key) != asked[key]]:
            raise InputError(
                f"{output}: holds an evaluation with other settings "
                f"({', '.join(differing)}); choose a new --output, or delete it",
                reason="other_evaluation",
            )
        others = [v for v in before.get("code", []) if v not in settings["code"]]
        if others:
            log.warning("%s: some scores are of another version of the code", output)
        settings["code"] = others + settings["code"]
    with whole_file(path) as part:
        part.write_text(json.dumps(settings, indent=2) + "\n")
    return folder


def _binding(settings: dict[str, Any]) -> dict[str, Any]:
    """What scores depend on: weights and pictures, not where they lie, nor the code."""
    return {
        key: {k: v for k, v in value.items() if k not in ("path", "trained_on")}
        if isinstance(value, dict)
        else value
        for key, value in settings.items()
        if key != "code"
    }


def _save(path: pathlib.Path, arrays: dict[str, np.ndarray]) -> None:
    with whole_file(path) as part:
        np.savez_compressed(part, **arrays)


def _load(path: pathlib.Path) -> dict[str, np.ndarray] | None:
    """Scores that are there already; None where they are not, or damaged."""
    if not path.exists():
        return None
    try:
        return safe_files.read_npz(path, _MAX_BYTES)
    except (ValueError, OSError) as error:
        log.warning("%s: is damaged (%s); scored again", path, error)
        return None


def _hash(model: MetaModel) -> str:
    return _digest(*jax.tree.leaves((model.params, model.discriminator)))


def _digest(*arrays) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array))
    return digest.hexdigest()

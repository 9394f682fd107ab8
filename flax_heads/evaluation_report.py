"""From the scores of an evaluation to its tables, plots and grid of pictures."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from data_pipeline.images import one_line
from data_pipeline.outputs import whole_file
from flax_heads.console import log
from flax_heads.evaluation_markdown import PAPER, PAPER_COLUMNS, as_markdown
from flax_heads.figures import contact_sheet
from flax_heads.frechet import frechet_distance, kernel_distance
from flax_heads.metrics import mean_interval, mean_over_people
from flax_heads.scores import METHODS, METRICS

_GRID_PEOPLE = 6
_MAX_PSNR = 100.0  # dB; equal frames have an infinite one
# Metrics of one set of frames against another: no mean over videos.
_SET_METRICS = {"frechet": frechet_distance, "kernel": kernel_distance}

Scores = dict[tuple[int, int], dict[str, np.ndarray]]  # of (T, video)


def write(
    output: pathlib.Path,
    settings: dict[str, Any],
    config: dict[str, Any],
    scores: Scores,
) -> list[dict]:
    """Writes `report.json`, `report.md`, `grid.png`, and plots where matplotlib is.

    Args:
      output: the folder.
      settings: what the evaluation was asked, as `evaluate` states it.
      config: of the model's training.
      scores: of every (T, video), as `evaluate` saves them.

    Returns:
      the mean results, one dict for each T and method.
    """
    per_video = _per_video(settings, scores)
    results = _summary(settings, scores, per_video)
    face_id_in_loss = bool(config["perceptual"].get("face_id"))
    report = {
        **settings,
        "config": config,
        "csim_dlib_network_in_loss": face_id_in_loss,
        "seconds_per_frame": _seconds(scores),
        "transfer_error": _transfer_error(settings, scores),
        "no_face_in_truth": _mean(
            np.concatenate([a["no_face"] for a in scores.values()])
        ),
        "results": results,
        "per_video": per_video,
        "the_papers_numbers": [
            {"data": data, "method": method, "shots": t}
            | dict(zip((c.lower() for c in PAPER_COLUMNS), numbers))
            for (data, method), rows in PAPER.items()
            for t, numbers in rows.items()
        ],
    }
    with whole_file(output / "report.json") as part:
        part.write_text(json.dumps(report, indent=2) + "\n")
    with whole_file(output / "report.md") as part:
        part.write_text(as_markdown(report), encoding="utf-8")
    with whole_file(output / "grid.png") as part:
        Image.fromarray(_grid(settings, scores)).save(part)
    try:
        _plot(output, settings, results, per_video)
    except ImportError:
        log.info('no plots: pip install "flax-heads[eval]" brings matplotlib')
    except Exception as error:  # the numbers are written
        log.warning("no plots: %s", one_line(error))
    return results


def _plot(output, settings, results, per_video) -> None:
    from flax_heads import evaluation_plots

    evaluation_plots.metrics_against_shots(results, output / "metrics.png")
    for t in settings["shots"]:
        evaluation_plots.people(per_video, t, output / f"people_T{t}.png")


def _methods(scores: Scores) -> list[str]:
    some = next(iter(scores.values()))
    return [m for m in METHODS if f"example/{m}" in some]


def _per_video(settings: dict[str, Any], scores: Scores) -> list[dict]:
    """One row for each T, video and method: means over frames."""
    data = settings["data"]
    rows = []
    for (t, video), arrays in scores.items():
        for method in _methods(scores):
            row = {"shots": t, "method": method, "video": data["videos"][video]}
            row["identity"] = data["identities"][video]
            if data["drivers"]:
                row["driver"] = data["drivers"][video]
            prefix = f"values/{method}/"
            found = {k[len(prefix) :]: v for k, v in arrays.items() if prefix in k}
            found["psnr"] = np.minimum(found["psnr"], _MAX_PSNR)
            row["finite"] = bool(arrays[f"finite/{method}"])
            rows.append(row | {m: _mean(found[m]) for m in METRICS if m in found})
    return rows


def _summary(settings, scores, per_video) -> list[dict]:
    """One row for each T and method: means over people with 95 % intervals."""
    results = []
    for t in settings["shots"]:
        for method in _methods(scores):
            rows = [r for r in per_video if (r["shots"], r["method"]) == (t, method)]
            row: dict[str, Any] = {"shots": t, "method": method, "videos": len(rows)}
            row["people"] = len({r["identity"] for r in rows})
            row["frames"] = len(rows) * settings["frames_per_video"]
            for name in METRICS:
                if name in rows[0]:
                    some = [r for r in rows if r[name] is not None]
                    values = [r[name] for r in some], [r["identity"] for r in some]
                    row[name] = mean_over_people(*values)
                    row[f"{name}_ci95"] = mean_interval(*values)
            row |= _set_distances([a for (s, _), a in scores.items() if s == t], method)
            results.append(row)
    return results


def _set_distances(videos: Sequence[dict], method: str) -> dict[str, float]:
    """Fréchet and kernel distance of all drawn frames from all true ones."""
    distances = {}
    prefix = f"features/{method}/"
    for key in (k for k in videos[0] if k.startswith(prefix)):
        judge = key[len(prefix) :]
        drawn = np.concatenate([video[key] for video in videos])
        true = np.concatenate([video[f"features/truth/{judge}"] for video in videos])
        for name, distance in _SET_METRICS.items():
            enough = len(drawn) > 1
            distances[f"{name}_{judge}"] = distance(drawn, true) if enough else None
    return distances


def _mean(values: Sequence[float]) -> float | None:
    """Of those that are defined; None where none is."""
    values = np.asarray(values, np.float64)
    values = values[np.isfinite(values)]
    return float(values.mean()) if len(values) else None


def _seconds(scores: Scores) -> dict[str, float]:
    """Mean seconds a frame that each metric took."""
    taken: dict[str, list] = {}
    for arrays in scores.values():
        for key, value in arrays.items():
            if key.startswith("seconds/"):
                taken.setdefault(key.split("/")[-1], []).append(float(value))
    return {name: float(np.median(values)) for name, values in taken.items()}


def _transfer_error(settings, scores: Scores) -> dict[int, float] | None:
    """T -> mean error of the adapted landmarks, as a part of the eyes' distance."""
    if settings["mode"] == "self":
        return None
    return {
        t: _mean(
            np.concatenate([a["transfer"] for (s, _), a in scores.items() if s == t])
        )
        for t in settings["shots"]
    }


def _grid(settings: dict[str, Any], scores: Scores) -> np.ndarray:
    """The paper's figure: for each person and T, source, truth and each method."""
    methods = [m for m in _methods(scores) if m not in ("nearest", "mean")]
    shots = settings["shots"]
    videos = list(dict.fromkeys(video for _, video in scores))[:_GRID_PEOPLE]
    rows = [scores[t, video] for video in videos for t in shots]
    columns = {"source": "source"}
    if settings["mode"] == "cross":
        columns["driver"] = "driver"
    columns["truth"] = "truth"
    columns |= {METHODS[m]: f"example/{m}" for m in methods}
    return contact_sheet(
        {title: np.stack([r[key] for r in rows]) for title, key in columns.items()},
        rows=[f"T = {t}" for _ in videos for t in shots],
    )

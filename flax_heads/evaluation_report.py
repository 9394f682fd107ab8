"""From the scores of an evaluation to its tables, plots and grid of pictures."""

from __future__ import annotations

import importlib.util
import json
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from flax_heads import integrity
from flax_heads.console import log
from flax_heads.figures import contact_sheet
from flax_heads.frechet import frechet_distance, kernel_distance
from flax_heads.scores import METRICS

# name -> title; baselines first, in the order of tables and pictures.
METHODS = {
    "nearest": "nearest photo",
    "mean": "mean photo",
    "warp": "warped photo",
    "ff": "feed-forward",
    "before_ft": "before fine-tuning",
    "ft": "fine-tuned",
}
BASELINES = ("nearest", "mean", "warp")
# SPEC section 6: the paper's own numbers, of its own networks, people and judges.
PAPER_COLUMNS = ("FID", "SSIM", "CSIM", "USER")
PAPER = {
    ("VoxCeleb1", "X2Face"): {
        1: (45.8, 0.68, 0.16, 0.82),
        8: (51.5, 0.73, 0.17, 0.83),
        32: (56.5, 0.75, 0.18, 0.85),
    },
    ("VoxCeleb1", "Pix2pixHD"): {
        1: (42.7, 0.56, 0.09, 0.82),
        8: (35.1, 0.64, 0.12, 0.79),
        32: (24.0, 0.70, 0.16, 0.71),
    },
    ("VoxCeleb1", "the paper"): {
        1: (43.0, 0.67, 0.15, 0.62),
        8: (38.0, 0.71, 0.17, 0.62),
        32: (29.5, 0.74, 0.19, 0.61),
    },
    ("VoxCeleb2", "the paper, FF"): {
        1: (46.1, 0.61, 0.42, 0.43),
        8: (42.2, 0.64, 0.47, 0.40),
        32: (40.4, 0.65, 0.48, 0.38),
    },
    ("VoxCeleb2", "the paper, FT"): {
        1: (48.5, 0.64, 0.35, 0.46),
        8: (42.2, 0.68, 0.42, 0.39),
        32: (30.6, 0.72, 0.45, 0.33),
    },
}
_GRID_PEOPLE = 6
_RESAMPLES = 1000
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
        "code": integrity.code_version(),
        **settings,
        "config": config,
        "csim_dlib_network_in_loss": face_id_in_loss,
        "seconds_per_frame": _seconds(scores),
        "results": results,
        "per_video": per_video,
        "the_papers_numbers": [
            {"data": data, "method": method, "shots": t}
            | dict(zip((c.lower() for c in PAPER_COLUMNS), numbers))
            for (data, method), rows in PAPER.items()
            for t, numbers in rows.items()
        ],
    }
    (output / "report.json").write_text(json.dumps(report, indent=2) + "\n")
    text = _markdown(report)
    (output / "report.md").write_text(text)
    Image.fromarray(_grid(settings, scores)).save(output / "grid.png")
    if importlib.util.find_spec("matplotlib"):
        from flax_heads import evaluation_plots

        evaluation_plots.metrics_against_shots(results, output / "metrics.png")
        for t in settings["shots"]:
            evaluation_plots.people(per_video, t, output / f"people_T{t}.png")
    else:
        log.info('no plots: pip install "flax-heads[eval]" brings matplotlib')
    return results


def _methods(scores: Scores) -> list[str]:
    some = next(iter(scores.values()))
    return [m for m in METHODS if f"example/{m}" in some]


def _per_video(settings: dict[str, Any], scores: Scores) -> list[dict]:
    """One row for each T, video and method: means over frames."""
    data = settings["data"]
    # The videos' names are in the order in which they were chosen, as the scores are.
    chosen = dict.fromkeys(video for _, video in scores)
    names = dict(zip(chosen, zip(data["videos"], data["identities"])))
    rows = []
    for (t, video), arrays in scores.items():
        for method in _methods(scores):
            name, identity = names[video]
            row = {"shots": t, "method": method, "video": name, "identity": identity}
            prefix = f"values/{method}/"
            found = {k[len(prefix) :]: v for k, v in arrays.items() if prefix in k}
            found["psnr"] = np.minimum(found["psnr"], _MAX_PSNR)
            rows.append(row | {m: _mean(found[m]) for m in METRICS if m in found})
    return rows


def _summary(settings, scores, per_video) -> list[dict]:
    """One row for each T and method: means over videos with 95 % intervals."""
    results = []
    for t in settings["shots"]:
        for method in _methods(scores):
            rows = [r for r in per_video if (r["shots"], r["method"]) == (t, method)]
            row: dict[str, Any] = {"shots": t, "method": method, "videos": len(rows)}
            row["frames"] = len(rows) * settings["frames_per_video"]
            for name in METRICS:
                if name in rows[0]:
                    values = [r[name] for r in rows if r[name] is not None]
                    row[name] = _mean(values)
                    row[f"{name}_ci95"] = _interval(values)
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


def _interval(values: Sequence[float]) -> list[float] | None:
    """95 % interval of the mean by bootstrap over videos."""
    if len(values) < 2:
        return None
    rng = np.random.default_rng(0)
    chosen = rng.integers(0, len(values), (_RESAMPLES, len(values)))
    means = np.asarray(values)[chosen].mean(1)
    return [float(x) for x in np.percentile(means, (2.5, 97.5))]


def _seconds(scores: Scores) -> dict[str, float]:
    """Mean seconds a frame that each metric took."""
    taken: dict[str, list] = {}
    for arrays in scores.values():
        for key, value in arrays.items():
            if key.startswith("seconds/"):
                taken.setdefault(key.split("/")[-1], []).append(float(value))
    return {name: float(np.median(values)) for name, values in taken.items()}


def _markdown(report: dict[str, Any]) -> str:
    results, data = report["results"], report["data"]
    people = len(set(data["identities"]))
    columns = [m for m in METRICS if results[0].get(m) is not None]
    n = results[0]["frames"]
    lines = [
        f"Self-reenactment of {len(data['videos'])} held-out videos of {people} people, "
        f"{report['frames_per_video']} hold-out frames each (n = {n}) at "
        f"{report['size']} px; {report['model']['path']}, step "
        f"{report['model']['step']}.",
        "",
        "| T | method | "
        + " | ".join(METRICS[m][0] + (" ↑" if METRICS[m][1] else " ↓") for m in columns)
        + " |",
        "|---" * (len(columns) + 2) + "|",
    ]
    for t in report["shots"]:
        rows = [r for r in results if r["shots"] == t]
        for row in rows:
            cells = [_cell(m, row[m], rows) for m in columns]
            lines.append(f"| {t} | {METHODS[row['method']]} | {' | '.join(cells)} |")
    in_loss = "was" if report["csim_dlib_network_in_loss"] else "was not"
    lines += [
        "",
        "Bold: the best of its T. 95 % intervals (bootstrap over videos) are in "
        "`report.json`. L1 of frames in [0, 1]; landmark error: of dlib's points over "
        "the distance between the eyes, of the frames in which it finds a face; "
        "flicker and jitter: of the error, between hold-out frames in order of time. "
        f"CSIM (dlib) is dlib's descriptor, not the paper's recogniser; its network "
        f"{in_loss} in the training loss. Fréchet distances depend on n: compare equal "
        "ones only.",
        "",
        "The paper's own numbers, for orientation: 256 px, other people, its own "
        "recogniser, n = 1,600.",
        "",
        "| data | method | T | " + " | ".join(PAPER_COLUMNS) + " |",
        "|---" * 7 + "|",
    ]
    for (data_name, method), by_shots in PAPER.items():
        for t, numbers in by_shots.items():
            cells = " | ".join(f"{x:g}" for x in numbers)
            lines.append(f"| {data_name} | {method} | {t} | {cells} |")
    return "\n".join(lines) + "\n"


def _cell(metric: str, value: float | None, rows: Sequence[dict]) -> str:
    if value is None:
        return "-"
    values = [row[metric] for row in rows if row[metric] is not None]
    best = max(values) if METRICS[metric][1] else min(values)
    text = f"{value:.1%}" if metric == "no_face" else f"{value:.4g}"
    return f"**{text}**" if value == best else text


def _grid(settings: dict[str, Any], scores: Scores) -> np.ndarray:
    """The paper's figure: for each person and T, source, truth and each method."""
    methods = [m for m in _methods(scores) if m not in ("nearest", "mean")]
    shots = settings["shots"]
    videos = list(dict.fromkeys(video for _, video in scores))[:_GRID_PEOPLE]
    rows = [scores[t, video] for video in videos for t in shots]
    columns = {"source": "source", "truth": "truth"}
    columns |= {METHODS[m]: f"example/{m}" for m in methods}
    return contact_sheet(
        {title: np.stack([r[key] for r in rows]) for title, key in columns.items()},
        rows=[f"T = {t}" for _ in videos for t in shots],
    )

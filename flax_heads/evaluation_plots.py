"""Plots of an evaluation: metrics against T, and people one by one."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from flax_heads.scores import BASELINES, METHODS, METRICS, ORACLE

_COLORS = {
    "nearest": "#9a9a9a",
    "mean": "#c9b458",
    "warp": "#7fa6c9",
    "ff": "#d1783c",
    "before_ft": "#8d6bb0",
    "ft": "#2a7f4f",
    "ft_corrected": "#74b816",
}
_PEOPLE_METRICS = ("l1", "ssim", "csim_dlib", "nme")


def metrics_against_shots(results: Sequence[dict], path: pathlib.Path) -> None:
    """One panel for each metric, one line for each method, with 95 % intervals."""
    names = [m for m in METRICS if any(r.get(m) is not None for r in results)]
    shots = sorted({row["shots"] for row in results})
    columns = min(4, len(names))
    figure, axes = _figure(-(-len(names) // columns), columns, len(names))
    for axis, name in zip(axes, names):
        for method in dict.fromkeys(row["method"] for row in results):
            rows = sorted(
                (r for r in results if r["method"] == method), key=lambda r: r["shots"]
            )
            values = np.array([_number(r.get(name)) for r in rows])
            axis.plot(
                shots,
                values,
                marker="o",
                markersize=4,
                linestyle=_line(method),
                color=_color(method),
                label=METHODS[method],
            )
            ends = np.array(
                [r.get(f"{name}_ci95") or (np.nan, np.nan) for r in rows], float
            )
            if _line(method) == "-":
                axis.fill_between(
                    shots, *ends.T, color=_color(method), alpha=0.15, linewidth=0
                )
        axis.set_title(_title(name), fontsize=9)
        axis.set_xscale("log", base=2)
        axis.set_xticks(shots, [str(t) for t in shots])
        axis.set_xlabel("T", fontsize=8)
    _save(figure, axes, path)


def people(per_video: Sequence[dict], shots: int, path: pathlib.Path) -> None:
    """Bars of each video at one T, for the metrics that tell people apart."""
    rows = [r for r in per_video if r["shots"] == shots]
    methods = list(dict.fromkeys(r["method"] for r in rows))
    videos = list(dict.fromkeys(r["video"] for r in rows))
    names = [m for m in _PEOPLE_METRICS if m in rows[0]]
    figure, axes = _figure(len(names), 1, len(names), width=max(6, 0.6 * len(videos)))
    for axis, name in zip(axes, names):
        for i, method in enumerate(methods):
            mine = {r["video"]: _number(r[name]) for r in rows if r["method"] == method}
            axis.bar(
                np.arange(len(videos)) + (i + 0.5) / len(methods) * 0.8 - 0.4,
                [mine[v] for v in videos],
                0.8 / len(methods),
                color=_color(method),
                alpha=0.5 if method.endswith(ORACLE) else 1,
                label=METHODS[method],
            )
        axis.set_title(f"{_title(name)}, T = {shots}", fontsize=9)
        labels = [v if len(v) <= 20 else f"{v[:19]}…" for v in videos]
        last = axis is axes[-1]
        labels = labels if last else [""] * len(videos)
        axis.set_xticks(range(len(videos)), labels, parse_math=False)  # "$" is a name's
        axis.tick_params(axis="x", rotation=60)
    _save(figure, axes, path)


def _line(method: str) -> str:
    if method.endswith(ORACLE):
        return "--"
    return ":" if method in BASELINES else "-"


def _color(method: str) -> str:
    return _COLORS[method.removesuffix(ORACLE)]


def _figure(rows: int, columns: int, used: int, width: float | None = None):
    figure = Figure(
        figsize=(width or 2.8 * columns, 2.3 * rows + 0.5), layout="constrained"
    )
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis in axes[used:]:
        axis.set_visible(False)
    for axis in axes:
        axis.tick_params(labelsize=7)
        axis.spines[["top", "right"]].set_visible(False)
    return figure, axes[:used]


def _save(figure: Figure, axes, path: pathlib.Path) -> None:
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside upper center", ncols=6, fontsize=8, frameon=False
    )
    figure.savefig(path, dpi=130)


def _title(metric: str) -> str:
    title, higher = METRICS[metric]
    return f"{title} ({'higher' if higher else 'lower'} is better)"


def _number(value: float | None) -> float:
    return np.nan if value is None else value

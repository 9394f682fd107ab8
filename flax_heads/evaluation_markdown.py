"""The table of an evaluation, for people to read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flax_heads.scores import METHODS, METRICS, ORACLE

# The paper's own numbers (its table 1), of its own networks, people and judges.
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


def _title(report: dict[str, Any]) -> str:
    """What was evaluated, in a sentence or two."""
    data = report["data"]
    model = f"{report['model']['path']}, step {report['model']['step']}"
    n, size = report["results"][0]["frames"], report["size"]
    if report["mode"] == "self":
        people = len(set(data["identities"]))
        return (
            f"Self-reenactment of {len(data['videos'])} held-out videos of {people} "
            f"people, {report['frames_per_video']} hold-out frames each (n = {n}) at "
            f"{size} px; {model}."
        )
    how = {
        "relative": "motion, from a photo on",
        "absolute": "pose and expression",
        "none": "landmarks, as they are",
    }[report["transfer"]]
    return (
        f"Cross-reenactment of {len(data['videos'])} rendered people, each driven by "
        f"another's {how}; {report['frames_per_video']} frames each (n = {n}) at "
        f"{size} px; {model}. The truth is the person rendered in the driver's motion."
    )


def _about_drivers(report: dict[str, Any]) -> list[str]:
    """How far the landmarks that drove were right, and who drove whom."""
    errors = ", ".join(
        f"{e:.3g} (T = {t})" for t, e in report["transfer_error"].items()
    )
    pairs = zip(report["data"]["drivers"], report["data"]["videos"])
    return [
        "",
        "Oracle: driven by the person's true landmarks, which nobody has; the distance "
        "to the row above it is lost by landmarks and not by networks. Error of the "
        f"landmarks that all others were given: {errors}.",
        "",
        "Driver → person: " + ", ".join(f"{a} → {b}" for a, b in pairs) + ".",
    ]


def as_markdown(report: dict[str, Any]) -> str:
    """The tables of `report.json` and what is to be known about them."""
    results = report["results"]
    columns = [m for m in METRICS if any(r.get(m) is not None for r in results)]
    lines = [
        _title(report),
        "",
        "| T | method | "
        + " | ".join(METRICS[m][0] + (" ↑" if METRICS[m][1] else " ↓") for m in columns)
        + " |",
        "|---" * (len(columns) + 2) + "|",
    ]
    for t in report["shots"]:
        rows = [r for r in results if r["shots"] == t]
        for row in rows:
            rivals = [r for r in rows if not r["method"].endswith(ORACLE)]
            cells = [_cell(m, row[m], rivals) for m in columns]
            lines.append(f"| {t} | {METHODS[row['method']]} | {' | '.join(cells)} |")
    in_loss = "was" if report["csim_dlib_network_in_loss"] else "was not"
    lines += [
        "",
        "Bold: the best of its T. 95 % intervals (Student's t over people) are in "
        "`report.json`. L1 of frames in [0, 1]; landmark error: from dlib's points in "
        "the true frame to those in the drawn one, over the distance between the eyes, "
        "where it finds a face in both; flicker and jitter: of the error, between "
        "frames in order of time. "
        f"CSIM (dlib) is dlib's descriptor, not the paper's recogniser; its network "
        f"{in_loss} in the training loss. Fréchet distances depend on n: compare equal "
        "ones only.",
    ]
    if seen := report["data"].get("trained_on"):
        lines += ["", f"**Not held out**: the model was trained on {', '.join(seen)}."]
    if missed := report["no_face_in_truth"]:
        share = number("no_face", missed)
        lines += [
            "",
            f"In {share} of the true frames dlib finds no face: no landmark error there.",
        ]
    if lost := [r for r in report["per_video"] if not r["finite"]]:
        named = [
            f"{r['video']} ({METHODS[r['method']]}, T = {r['shots']})" for r in lost
        ]
        lines += [
            "",
            "**Learning did not stay finite**, and the means count what was drawn all "
            f"the same: {', '.join(named)}.",
        ]
    if len(report["code"]) > 1:
        lines += ["", "Scored in parts, by different versions of the code: `code`."]
    if rounds := report["corrections"]:
        lines += [
            "",
            f"Corrected: each frame drawn {rounds + 1} times, the raster asking for more "
            "where dlib found the face short of its landmarks; the same dlib judges them.",
        ]
    if report["mode"] == "cross":
        lines += _about_drivers(report)
    lines += [
        "",
        "The paper's own numbers, for orientation: self-reenactment, 256 px, other "
        "people, its own recogniser, n = 1,600.",
        "",
        "| data | method | T | " + " | ".join(PAPER_COLUMNS) + " |",
        "|---" * 7 + "|",
    ]
    for (data_name, method), by_shots in PAPER.items():
        for t, numbers in by_shots.items():
            cells = " | ".join(f"{x:g}" for x in numbers)
            lines.append(f"| {data_name} | {method} | {t} | {cells} |")
    return "\n".join(lines) + "\n"


def number(metric: str, value: float | None) -> str:
    """A metric's value for a table: four digits, shares in per cent, "-" for none."""
    if value is None:
        return "-"
    return f"{value:.1%}" if metric == "no_face" else f"{value:.4g}"


def _cell(metric: str, value: float | None, rows: Sequence[dict]) -> str:
    if value is None:
        return number(metric, value)
    values = [row[metric] for row in rows if row[metric] is not None]
    best = (max if METRICS[metric][1] else min)(values, default=None)
    text = number(metric, value)
    return f"**{text}**" if value == best else text

"""What benchmarks share: flags, the config measured, and the table that they print."""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import platform
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from flax_heads import config_file

_LOAD_BEFORE = os.getloadavg()[0]  # of the minute before this program


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rounds", type=int, default=5, help="timed runs of each")
    parser.add_argument("--json", type=pathlib.Path, help="file for the same as JSON")


def add_config_flags(parser: argparse.ArgumentParser) -> None:
    """Those that `config_of` reads."""
    parser.add_argument("--config", default="configs/voxceleb2.py")
    parser.add_argument("--size", type=int, help="pixels; the config's by default")


def config_of(flags: argparse.Namespace) -> ConfigDict:
    """The config to be measured; its content loss is the pixel pyramid, without files."""
    config = config_file.load(flags.config)
    config.size = flags.size or config.size
    config.loss.pixel = 10.0
    config.perceptual.update(vgg19=0.0, vggface=0.0, face_id=0.0)
    return config


def machine() -> dict[str, Any]:
    device = jax.devices()[0]
    return {
        "device": f"{jax.device_count()} x {device.device_kind}",
        "cpu": _cpu_name(),
        "cores": len(os.sched_getaffinity(0)),
        "load_before": round(_LOAD_BEFORE, 2),
        "python": platform.python_version(),
        "jax": jax.__version__,
    }


def _cpu_name() -> str:
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.split(":")[1].strip() for line in lines if "model name" in line]
    return names[0] if names else platform.machine()


def matmul_peak(dtype: str = "float32") -> float:
    """FLOP/s of the best of several large matrix products on the first device."""
    n = 2048 if jax.default_backend() == "cpu" else 8192
    a = jax.random.normal(jax.random.key(0), (n, n)).astype(dtype)
    multiply = jax.jit(lambda a: jnp.dot(a, a, preferred_element_type=jnp.float32))
    multiply(a).block_until_ready()
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        multiply(a).block_until_ready()
        seconds.append(time.perf_counter() - start)
    return 2 * n**3 / min(seconds)


def add_rates(
    rows: Sequence[dict[str, Any]],
    things: int,
    name: str,
    peaks: Mapping[str, float] | None = None,
) -> None:
    """Adds what was done in a second, and the share of the machine's peak.

    Args:
      rows: of `in_turn.compare`; those with "seconds" are changed.
      things: done in one timed run.
      name: of the column, "images_per_s" for example.
      peaks: a row's name -> FLOP/s that its devices can do, by `matmul_peak`; for rows
        that have "flops".
    """
    for row in rows:
        flops = row.pop("flops", None)
        if row.get("seconds"):
            row[name] = things / row["seconds"]
            if flops and peaks:
                row["share_of_peak"] = flops / row["seconds"] / peaks[row["name"]]


def show(
    title: str,
    rows: Sequence[dict[str, Any]],
    about: dict[str, Any],
    path: pathlib.Path | None = None,
) -> None:
    """Prints a table of the rows' fields, in the order in which they first occur.

    Args:
      title: of the table.
      rows: one dict for each line; absent fields are shown as "-".
      about: settings and machine, printed above.
      path: where to write all of it as JSON.
    """
    columns = list(dict.fromkeys(name for row in rows for name in row))
    cells = [columns, *([_text(row.get(c)) for c in columns] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    print(f"\n{title}")
    for name, value in about.items():
        print(f"  {name}: {_text(value)}")
    for line in cells:
        print("  ".join(text.ljust(w) for text, w in zip(line, widths)).rstrip())
    if path:
        path.write_text(
            json.dumps({"title": title, **about, "rows": list(rows)}, indent=2) + "\n"
        )
        print(f"see {path}")


def _text(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float | np.floating):
        return f"{value:.4g}"
    return str(value)

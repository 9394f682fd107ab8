"""What a checkpoint says about itself: a sha256 of each leaf, and the code that wrote it.

Orbax notices a file that is missing, not one whose bytes changed: a flipped bit restores
as a wrong weight. The digests are of the values, so neither the number of devices nor
the way they are stored matters to them.
"""

from __future__ import annotations

import concurrent.futures
import functools
import hashlib
import importlib.metadata
import json
import pathlib
import platform
import subprocess
from typing import Any

import jax
import numpy as np

_ROOT = pathlib.Path(__file__).resolve().parents[1]
_PACKAGES = ("flax-heads", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint")


def digests(tree: Any) -> dict[str, str | None]:
    """{path of a leaf: sha256 of its type, shape and values}; blocks on the leaves.

    A leaf that is spread over several processes (W) has None: no process sees all of it.
    """
    leaves = {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }
    # hashlib lets go of the interpreter's lock, so threads are as good as processes.
    with concurrent.futures.ThreadPoolExecutor() as pool:
        return dict(zip(leaves, pool.map(_digest, leaves.values()), strict=True))


def differing(tree: Any, recorded: dict[str, str | None]) -> list[str]:
    """Paths of the leaves of `tree` whose values are not the recorded ones.

    `tree` may be a part of what was recorded, under the same paths. What could not be
    seen whole, now or then, cannot be compared.
    """
    return [
        path
        for path, now in digests(tree).items()
        if recorded.get(path, "") != now and None not in (recorded.get(path, ""), now)
    ]


def differences(saved: dict, now: dict, prefix: str = "") -> list[str]:
    """Lines `field: saved -> now` for every field in which two JSON trees differ."""
    lines = []
    for name in sorted({*saved, *now}):
        before, after = saved.get(name), now.get(name)
        if isinstance(before, dict) and isinstance(after, dict):
            lines += differences(before, after, f"{prefix}{name}.")
        elif json.dumps(before) != json.dumps(after):
            lines.append(f"{prefix}{name}: {before} -> {after}")
    return lines


@functools.cache  # as it was when it was first asked for: files may change meanwhile
def code_version() -> dict[str, str]:
    """The source of the two packages, the commit it may come from, and what it runs on."""
    source = hashlib.sha256()
    for folder in ("flax_heads", "data_pipeline"):
        for path in sorted((_ROOT / folder).glob("*.py")):
            source.update(path.name.encode() + path.read_bytes())
    version = {"source": source.hexdigest()[:12], "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            version[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:  # run from a bare checkout
            version[package] = "not installed"
    if commit := _commit():
        version["commit"] = commit
    return version


def _commit() -> str:
    """The checkout's commit, marked if it has changes; empty where there is none."""
    if not (_ROOT / ".git").exists():
        return ""
    command = ["git", "--no-optional-locks", "-C", str(_ROOT), "describe", "--always"]
    command.append("--dirty=+changes")
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _is_at_hand(leaf: Any) -> bool:
    if not isinstance(leaf, jax.Array):
        return True
    return leaf.is_fully_addressable or leaf.is_fully_replicated


def _digest(leaf: Any) -> str | None:
    if not _is_at_hand(leaf):
        return None
    array = np.asarray(leaf)
    sha = hashlib.sha256(f"{array.dtype} {array.shape} ".encode())
    sha.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8))
    return sha.hexdigest()

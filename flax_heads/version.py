"""Which code made a checkpoint or a report."""

from __future__ import annotations

import importlib.metadata
import pathlib
import subprocess


def code_version() -> str:
    """The package's version; in a git checkout with its commit, as "0.1.0+gabc1234".

    A "-dirty" says that files differed from that commit.
    """
    version = importlib.metadata.version("flax-heads")
    root = pathlib.Path(__file__).resolve().parents[1]
    if not (root / ".git").exists():
        return version
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--exclude=*"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):  # no git, or not its owner
        return version
    return f"{version}+g{found.stdout.strip()}"

"""`flax-heads check`: a prepared dataset's verdict, with the faces compared."""

from __future__ import annotations

import os

import rich.console

from flax_heads.console import staged_progress
from flax_heads.identity import DlibIdentity

EXIT_DAMAGED = 1


def run_check(
    data_dir: str | os.PathLike,
    pictures_per_video: int = 8,
    compare_people: bool = True,
    console: rich.console.Console | None = None,
) -> int:
    """Checks a dataset (`data_pipeline.check`) and prints what it found.

    Args:
      data_dir: as given to `flax-heads prepare`.
      pictures_per_video: frames and rasters of each video to decode; 0 = all.
      compare_people: looks for people who are in two splits, by dlib's descriptors.

    Returns:
      The exit code: 0 for an intact dataset, else `EXIT_DAMAGED`.

    Raises:
      InputError: there is no dataset, or the descriptors' weights are missing.
    """
    from data_pipeline.check import check_dataset  # imports TensorFlow
    from data_pipeline.report import print_check

    describe = DlibIdentity().describe if compare_people else None
    with staged_progress() as show:
        report = check_dataset(data_dir, pictures_per_video, describe, show)
    print_check(report, console or rich.console.Console())
    return EXIT_DAMAGED if report["problems"] else 0

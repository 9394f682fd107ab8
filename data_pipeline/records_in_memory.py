"""Prepared records as an archive: all frames of a split in memory."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

import numpy as np

from data_pipeline import geometry, packing
from data_pipeline.archive import Archive, make_archive
from data_pipeline.errors import InputError
from data_pipeline.input_pipeline import MAX_DAMAGED, Records
from data_pipeline.shards import AGAIN


def archive_from_records(
    data_dir: str | os.PathLike,
    split: str = "train",
    size: int | None = None,
    max_damaged: float = MAX_DAMAGED,
    choose: Callable[[Records], Sequence[int]] | None = None,
) -> Archive:
    """Loads all frames of a split, or of some of its videos, into memory.

    Args:
      size: side of the archive's frames in pixels, at most that of the records;
        rasters are drawn at that size.
      max_damaged: as for `Records`; damaged videos are left out.
      choose: from the opened records to the positions of those wanted, in the order
        wanted; by default all of them as they lie.

    Raises:
      InputError: as `Records`, a larger size, or nothing is left.
    """
    records = Records(data_dir, split, max_damaged)
    size = size or records.size
    if size > records.size:
        raise InputError(
            f"{records.path}: has frames of {records.size} px, so no archive of {size} "
            "px can be made from it; prepare it at that size"
        )
    box = geometry.whole_frame(records.size, records.size)
    frames, landmarks, kept = [], [], []
    wanted = range(records.num_videos) if choose is None else choose(records)
    for index, example in records.examples(wanted):
        try:
            decoded = [packing.decode_jpeg(b, records.size) for b in example["frames"]]
        except ValueError as error:
            problem = f"{records.path}: the record of {records.videos[index]} holds "
            records.leave_out(index, f"{problem}{error}; {AGAIN}")
            continue
        if size != records.size:
            decoded = [geometry.crop(frame, box, size) for frame in decoded]
        frames += decoded
        landmarks.append(
            geometry.resize_points(example["landmarks"], records.size, size)
        )
        kept.append(index)
    if not kept:
        raise InputError(f"{records.path}: none of the videos can be read", "damaged")
    return make_archive(
        np.stack(frames),
        np.concatenate(landmarks),
        records.frames_per_video[kept],
        [records.videos[index] for index in kept],
        [records.identities[index] for index in kept],
        records.style,
    )

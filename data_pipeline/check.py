"""Is a prepared dataset whole, and what is in it? The work behind `flax-heads check`."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import hashlib
import io
import os
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

from data_pipeline import geometry, packing, shards
from data_pipeline.errors import InputError
from data_pipeline.leaks import find_leaks
from data_pipeline.prepared import Prepared, one_dataset, open_split, split_names
from data_pipeline.raster import draw_raster
from data_pipeline.workers import default_workers

# frames [n, H, W, 3] and landmarks [n, 68, 2] to n descriptors of faces [n, D]
Describe = Callable[[np.ndarray, np.ndarray], np.ndarray]

# Distance of the eyes over the side of the frame, where the crops have about 0.25.
_ODD_EYES = (0.04, 0.6)
_DESCRIBED = 4  # frames of a video
_CHUNK = 64  # records whose pictures are in memory together
_PROBLEMS = 1000  # lines that are kept


@dataclasses.dataclass
class _Row:
    """What is known of one record."""

    problem: str = ""
    digests: np.ndarray | None = None  # uint64 [F], of the JPEG files
    eyes: np.ndarray | None = None  # float [F], their distance over the frame's side
    outside: np.ndarray | None = None  # float [F], share of landmarks off the frame
    pictures: np.ndarray | None = None  # uint8 [n, H, W, 3], to be described
    landmarks: np.ndarray | None = None  # float32 [n, 68, 2], theirs


def check_dataset(
    data_dir: str | os.PathLike,
    pictures_per_video: int = 8,
    describe: Describe | None = None,
    on_progress: Callable[[str, int, int], None] = lambda stage, done, total: None,
) -> dict[str, Any]:
    """Reads a whole dataset, compares it with its checksums and counts what it holds.

    Args:
      data_dir: as given to `prepare`.
      pictures_per_video: frames and rasters to decode of each video, evenly; 0 decodes
        all. The bytes of all others are covered by checksums.
      describe: makes face descriptors, of which people that are in both splits under
        two names can be told; None does without.
      on_progress: called with what is being done, how much of it and of how much.

    Returns:
      JSON values: `path`; `checksums`, whether there was a manifest to check against;
      `problems`, a line for each; `warnings`, the same; `splits`, for each its counts
      and the distribution of its landmarks; `nearest_people`, the most similar people
      of two splits.

    Raises:
      InputError: there is no dataset, or not one to make sense of.
    """
    path = one_dataset(data_dir)
    manifest = shards.read_manifest(path)
    problems, warnings = [], []
    if manifest is None:
        warnings.append(
            f"{path}: no {shards.MANIFEST}, so only the records' own checksums were "
            "checked; `flax-heads prepare` with the same arguments writes it"
        )
    else:
        done = iter(range(len(manifest)))
        for name, problem in shards.damaged_files(
            path,
            manifest,
            on_file=lambda _: on_progress("files", next(done), len(manifest)),
        ):
            problems.append(f"{path / name}: {problem}")
    splits, digests, people = {}, {}, {}
    for split in split_names(path):
        try:
            prepared = open_split(path, split)
        except InputError as error:
            problems.append(str(error))
            continue
        rows, vectors = _read_split(prepared, pictures_per_video, describe, on_progress)
        bad = [row.problem for row in rows if row.problem]
        problems += bad
        splits[split] = _statistics(prepared, rows)
        warnings += _odd_landmarks(path, split, splits[split])
        digests[split] = [row.digests for row in rows if row.digests is not None]
        people[split] = prepared.identities, vectors
    leaks, alike, nearest = find_leaks(digests, people)
    if not any(statistics["frames"] for statistics in splits.values()):
        problems.append(f"{path}: not one frame can be read")
    return {
        "path": str(path),
        "checksums": manifest is not None,
        "problems": (problems + leaks)[:_PROBLEMS],
        "warnings": warnings + alike,
        "splits": splits,
        "nearest_people": nearest,
    }


def _read_split(
    prepared: Prepared, pictures_per_video: int, describe, on_progress
) -> tuple[list[_Row], dict[int, np.ndarray]]:
    """A row for each record and, with `describe`, the mean descriptor of its faces."""
    rows, vectors = [], {}
    count = len(prepared.videos)

    def look(index: int) -> _Row:
        return _look(prepared, index, pictures_per_video, describe is not None)

    with concurrent.futures.ThreadPoolExecutor(default_workers()) as pool:
        for start in range(0, count, _CHUNK):
            on_progress(f"records of {prepared.split}", start, count)
            for row in pool.map(look, range(start, min(start + _CHUNK, count))):
                if row.pictures is not None:
                    found = describe(row.pictures, row.landmarks)
                    vectors[len(rows)] = np.asarray(found).mean(0)
                    row.pictures = row.landmarks = None
                rows.append(row)
    return rows, vectors


def _look(prepared: Prepared, index: int, pictures: int, keep: bool) -> _Row:
    """Reads one record and decodes some of its pictures."""
    where = f"{prepared.reader.name_of(index)} ({prepared.videos[index]})"
    try:
        example = prepared.read(index)
    except InputError as error:
        return _Row(problem=f"{error} ({prepared.videos[index]})")
    if example["identity"] != prepared.identities[index]:
        return _Row(problem=f"{where} is not of {prepared.identities[index]}")
    landmarks, size = example["landmarks"], prepared.size
    if not np.isfinite(landmarks).all():
        return _Row(problem=f"{where} has landmarks that are not finite")
    count = len(landmarks)
    chosen = range(count)
    if pictures:
        chosen = np.linspace(0, count - 1, min(pictures, count)).astype(int).tolist()
    decoded = []
    try:
        for i in chosen:
            decoded.append(packing.decode_jpeg(example["frames"][i], size))
            raster = _decode_png(example["rasters"][i], size)
            if i == chosen[0]:
                drawn = draw_raster(landmarks[i], size, prepared.style)
                if np.abs(drawn.astype(int) - raster).max() > 2:
                    return _Row(problem=f"{where} has rasters of other landmarks")
    except ValueError as error:
        return _Row(problem=f"{where} cannot be decoded: {error}")
    on_frame = ((landmarks > -0.5) & (landmarks < size - 0.5)).all(-1)  # [F, 68]
    row = _Row(
        digests=np.array([_digest(blob) for blob in example["frames"]], np.uint64),
        eyes=geometry.inter_ocular(landmarks) / size,
        outside=1 - on_frame.mean(-1),
    )
    if keep:
        few = np.linspace(0, len(decoded) - 1, min(_DESCRIBED, len(decoded))).astype(
            int
        )
        row.pictures = np.stack([decoded[i] for i in few])
        row.landmarks = landmarks[np.array(chosen)[few]]
    return row


def _decode_png(blob: bytes, size: int) -> np.ndarray:
    try:
        with Image.open(io.BytesIO(blob), formats=["PNG"]) as image:
            if image.size != (size, size):
                raise ValueError(f"a raster of {image.size}, not of {size} px")
            return np.asarray(image.convert("RGB"))
    except ValueError:
        raise
    except Exception as error:  # Pillow's decoders raise nearly anything
        raise ValueError(f"a damaged raster ({error})") from error


def _digest(blob: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(blob, digest_size=8).digest(), "little")


def _statistics(prepared: Prepared, rows: list[_Row]) -> dict[str, Any]:
    """Counts of what can be read, and where its landmarks lie."""
    good = [i for i, row in enumerate(rows) if not row.problem]
    lengths = prepared.frames_per_video[good]
    eyes = np.concatenate([np.zeros(0), *(rows[i].eyes for i in good)])
    outside = np.concatenate([np.zeros(0), *(rows[i].outside for i in good)])
    digests = np.concatenate([np.zeros(0, np.uint64), *(rows[i].digests for i in good)])
    paths = [shard.path for shard in prepared.reader.shards]

    def percentiles(values, *ranks):
        found = np.percentile(values, ranks) if len(values) else [0.0] * len(ranks)
        return [round(float(value), 4) for value in found]

    return {
        "people": len({prepared.identities[i] for i in good}),
        "videos": len(good),
        "damaged_videos": len(rows) - len(good),
        "frames": int(lengths.sum()),
        "frames_per_video": percentiles(lengths, 0, 50, 100),
        "shards": len(paths),
        "megabytes": round(sum(p.stat().st_size for p in paths) / 1e6, 1),
        # Shares of the frame's side, at the 1st, 50th and 99th percentile.
        "eye_distance": percentiles(eyes, 1, 50, 99),
        "frames_with_odd_eyes": int(
            ((eyes < _ODD_EYES[0]) | (eyes > _ODD_EYES[1])).sum()
        ),
        "frames_with_landmarks_outside": int((outside > 0).sum()),
        "frames_mostly_outside": int((outside > 0.2).sum()),
        "repeated_frames": len(digests) - len(np.unique(digests)),
    }


def _odd_landmarks(path: pathlib.Path, split: str, counts: dict) -> list[str]:
    texts = {
        "frames_with_odd_eyes": "have eyes that are oddly close or far apart",
        "frames_mostly_outside": "have a fifth of their landmarks off the frame",
        "repeated_frames": "are in it more than once",
    }
    return [
        f"{path}: {counts[key]} of {counts['frames']} frames of {split} {text}"
        for key, text in texts.items()
        if counts[key] > 0.01 * counts["frames"]
    ]

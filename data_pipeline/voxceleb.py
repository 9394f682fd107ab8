"""Where the videos of a corpus lie, who is in them, and who is held out for tests.

One record of the dataset is one video of one person; the utterances that were cut
from it share a row of W, so they are merged.
"""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import os
import pathlib
import re
import unicodedata
from collections.abc import Collection, Iterable, Iterator, Sequence

import numpy as np

from data_pipeline.errors import InputError

LAYOUTS = {
    "voxceleb2": "[dev|test/]mp4/<identity>/<video>/<utterance>.mp4",
    "voxceleb1": "<name>/1.6/<video>/<frame>.jpg, or txt/<identity>/<video>/"
    "<utterance>.txt beside videos/<video>.mp4",
    "folder": "<person>/…/<video>.mp4 (also mov, mkv, webm, avi, mpg), or one file "
    "per person",
}
# VoxCeleb counts frames at this rate, whatever the rate of the video.
VOXCELEB_FPS = 25.0

_MAX_BYTES = 2**22  # of a text file; VoxCeleb's longest has 100 kB
_MAX_VALUE = 1e6  # of a frame number or a side of a box

# Control characters, bytes that are not UTF-8, breaks of lines and paragraphs.
_NO_TEXT = ("Cc", "Cs", "Zl", "Zp")
PICTURE_SUFFIXES = frozenset((".jpg", ".jpeg", ".png"))
VIDEO_SUFFIXES = frozenset(".mp4 .m4v .mov .mkv .webm .avi .mpg .mpeg .ts .3gp".split())
_SPLIT_FOLDERS = {"dev": "train", "test": "test"}


@dataclasses.dataclass(frozen=True)
class Video:
    """One video of one person.

    Attributes:
      key: unique name, `identity/video`.
      identity: the person.
      video: the video, e.g. its YouTube id.
      split: `train` or `test`; no person is in both.
      utterances: what to read, in order: video files, or the JPEG face crops of
        VoxCeleb1, whose names are frame numbers at `VOXCELEB_FPS`.
      boxes: for VoxCeleb1 with whole videos: the text files that say when and where
        the person speaks in the one file of `utterances`.
    """

    key: str
    identity: str
    video: str
    split: str
    utterances: tuple[pathlib.Path, ...]
    boxes: tuple[pathlib.Path, ...] = ()


def find_videos(
    source: str | os.PathLike,
    layout: str = "folder",
    test_fraction: float = 0.1,
    test_identities: Collection[str] = (),
) -> list[Video]:
    """Lists the videos below `source`, sorted by key.

    The test people are `test_identities` where given; else the corpus's own where its
    folders or names say so; else a fixed pseudo-random `test_fraction` of the people.

    Args:
      source: the corpus's root folder, or one of those inside that hold all of it.
      layout: a key of `LAYOUTS`.

    Raises:
      InputError: no such folder, nothing in it that fits the layout, or a test
        identity that is not there.
    """
    source = pathlib.Path(source)
    if layout not in LAYOUTS:
        raise InputError(f"unknown layout {layout!r}, use one of {', '.join(LAYOUTS)}")
    if not source.is_dir():
        raise InputError(
            f"{source}: no such folder; expected {LAYOUTS[layout]}", reason="missing"
        )
    finders = {
        "voxceleb2": _find_voxceleb2,
        "voxceleb1": _find_voxceleb1,
        "folder": _find_folder,
    }
    videos = sorted(finders[layout](source), key=lambda video: video.key)
    if not videos:
        raise InputError(
            f"{source}: nothing in the layout {layout}; expected {LAYOUTS[layout]}",
            reason="empty",
        )
    return _assign_splits(source, videos, test_fraction, test_identities)


def held_out_identities(identities: Collection[str], fraction: float) -> set[str]:
    """A fixed pseudo-random `fraction` of the people: never all, of two or more one.

    Ranked by a hash of the name, so that a corpus that grows keeps nearly all of its
    test people.
    """
    if not 0 <= fraction < 1:
        raise InputError(f"the test fraction must be in [0, 1), not {fraction}")
    people = set(identities)
    ranked = sorted(people, key=lambda name: hashlib.sha256(name.encode()).digest())
    count = max(round(fraction * len(people)), int(fraction > 0))
    return set(ranked[: min(count, len(people) - 1)]) if people else set()


def read_boxes(path: str | os.PathLike) -> tuple[np.ndarray, np.ndarray]:
    """Parses a VoxCeleb text file.

    Header lines, an empty one, then a table `FRAME X Y W H`.

    Returns:
      frame_index: int64 [F], at `VOXCELEB_FPS`.
      boxes: float32 [F, 4], left, top, width, height in the original YouTube frame, in
      pixels (VoxCeleb1) or fractions of its sides (VoxCeleb2).

    Raises:
      InputError: unreadable, or not such a table; names the line.
    """
    path = pathlib.Path(path)
    try:
        with open(path, "rb") as file:
            text = file.read(_MAX_BYTES + 1)
        if len(text) > _MAX_BYTES:
            raise ValueError(f"more than {_MAX_BYTES / 1e6:.0f} MB")
        lines = text.decode("utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path}: cannot be read ({error}); fetch it again or remove it",
            "unreadable",
        ) from error
    table = [i for i, line in enumerate(lines) if line.split()[:1] == ["FRAME"]]
    if not table or lines[table[0]].split() != ["FRAME", "X", "Y", "W", "H"]:
        raise InputError(
            f"{path}: no line 'FRAME X Y W H', so not a VoxCeleb text file; fetch it "
            "again or remove it",
            reason="bad_boxes",
        )
    rows = []
    for number, line in enumerate(lines[table[0] + 1 :], table[0] + 2):
        if not line.strip():
            continue
        try:
            frame, *box = line.split()
            row = (int(frame), *map(float, box))
            if len(row) != 5 or row[0] < 0 or min(row[3:]) <= 0:
                raise ValueError
            if not all(abs(value) <= _MAX_VALUE for value in row):  # nor NaN
                raise ValueError
        except ValueError:
            raise InputError(
                f"{path}: line {number} is not 'frame x y width height': "
                f"{line.strip()[:60]!r}; fetch the file again or remove it",
                reason="bad_boxes",
            ) from None
        rows.append(row)
    if not rows:
        raise InputError(f"{path}: no boxes in it; remove it", reason="bad_boxes")
    frames, *boxes = zip(*rows)
    return np.array(frames, np.int64), np.array(boxes, np.float32).T


def _find_voxceleb2(source: pathlib.Path) -> Iterator[Video]:
    roots = [(source / s / "mp4", split) for s, split in _SPLIT_FOLDERS.items()]
    roots.append((source / "mp4", _SPLIT_FOLDERS.get(source.name, "")))
    if source.name == "mp4":
        roots.append((source, _SPLIT_FOLDERS.get(source.parent.name, "")))
    elif not any(root.is_dir() for root, _ in roots):
        roots.append((source, ""))
    for root, split in roots:
        yield from _merge(_visible(root.glob("*/*/*.mp4")), split)


def _merge(files: Iterable[pathlib.Path], split: str) -> Iterator[Video]:
    """One `Video` per `<identity>/<video>` folder of files."""
    by_folder = collections.defaultdict(list)
    for file in files:
        by_folder[file.parent].append(file)
    for folder, utterances in by_folder.items():
        identity, video = folder.parent.name, folder.name
        key = f"{identity}/{video}"
        yield Video(key, identity, video, split, tuple(sorted(utterances)))


def _find_voxceleb1(source: pathlib.Path) -> Iterator[Video]:
    crops = [
        source.glob(pattern) for pattern in ("*/[0-9].[0-9]/*", "*/*/[0-9].[0-9]/*")
    ]
    folders = (path for found in crops for path in found if path.is_dir())
    for folder in sorted(folders):
        files = [f for f in _visible(folder.iterdir()) if _is_numbered_picture(f)]
        if files:
            files.sort(key=lambda file: int(file.stem))
            identity, video = folder.parent.parent.name, folder.name
            split = _voxceleb1_split(identity)
            yield Video(f"{identity}/{video}", identity, video, split, tuple(files))

    files = {f.stem: f for f in _walk(source) if _is_video(f)}
    for video in _merge(_visible(source.glob("**/txt/*/*/*.txt")), ""):
        if video.video in files:  # many YouTube videos have gone
            yield dataclasses.replace(
                video,
                split=_voxceleb1_split(video.identity),
                utterances=(files[video.video],),
                boxes=video.utterances,
            )


def _voxceleb1_split(identity: str) -> str:
    """The official split: id10270 to id10309, who are the people named E…

    VoxCeleb1's people are called First_Last. Whoever is called otherwise is somebody
    else's, of whom a fraction is tested on.
    """
    if number := re.fullmatch(r"id(\d+)", identity):
        return "test" if 10270 <= int(number[1]) <= 10309 else "train"
    if "_" not in identity:
        return ""
    return "test" if identity.startswith("E") else "train"


def _find_folder(source: pathlib.Path) -> Iterator[Video]:
    files = sorted(f for f in _walk(source) if _is_video(f))
    relative = [file.relative_to(source) for file in files]
    stems = collections.Counter(path.with_suffix("") for path in relative)
    for file, path in zip(files, relative):
        name = path.with_suffix("") if stems[path.with_suffix("")] == 1 else path
        identity = path.parts[0] if len(path.parts) > 1 else path.stem
        video = "/".join(name.parts[1:]) or name.name
        yield Video(f"{identity}/{video}", identity, video, "", (file,))


def _is_numbered_picture(path: pathlib.Path) -> bool:
    return path.suffix.lower() in PICTURE_SUFFIXES and re.fullmatch("[0-9]+", path.stem)


def _is_video(path: pathlib.Path) -> bool:
    return path.suffix.lower() in VIDEO_SUFFIXES and path.is_file()


def _walk(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    """All files below a folder that are not hidden, nor in a hidden folder.

    Links to folders are followed, as corpora are often put together from several disks;
    a folder that is met again, by a link to one above it for example, is not.
    """
    seen = set()
    for parent, folders, files in os.walk(folder, followlinks=True):
        here = os.stat(parent)
        if (here.st_dev, here.st_ino) in seen:
            folders.clear()
            continue
        seen.add((here.st_dev, here.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from _visible(pathlib.Path(parent, name) for name in files)


def _visible(paths: Iterable[pathlib.Path]) -> Iterator[pathlib.Path]:
    """Leaves out hidden files, such as the `._x.mp4` that macOS writes."""
    return (path for path in paths if not path.name.startswith("."))


def _assign_splits(
    source: pathlib.Path,
    videos: Sequence[Video],
    test_fraction: float,
    test_identities: Collection[str],
) -> list[Video]:
    for video in videos:
        if any(unicodedata.category(c) in _NO_TEXT for c in video.key):
            raise InputError(
                f"{source}: the name {video.key!a} is not readable text; rename it",
                reason="bad_name",
            )
    people = {video.identity for video in videos}
    if unknown := set(test_identities) - people:
        raise InputError(
            f"{source}: no video of the test identity {min(unknown)}",
            reason="unknown_identity",
        )
    if test_identities:
        held_out = set(test_identities)
    else:
        unassigned = {video.identity for video in videos if not video.split}
        held_out = held_out_identities(unassigned, test_fraction)
        held_out |= {video.identity for video in videos if video.split == "test"}
    keys = collections.Counter(video.key for video in videos)
    if clash := [key for key, count in keys.items() if count > 1]:
        raise InputError(
            f"{source}: {clash[0]} is there twice, e.g. in dev and test; remove one",
            reason="duplicate",
        )
    return [
        dataclasses.replace(v, split="test" if v.identity in held_out else "train")
        for v in videos
    ]

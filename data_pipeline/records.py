"""One video in, one record out: decode, track, crop, encode.

Runs in worker processes on files that may be broken, so that everything it meets is
counted, and nothing but a bug raises.
"""

from __future__ import annotations

import collections
import dataclasses
import io
import pathlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from PIL import Image

from data_pipeline import geometry, packing
from data_pipeline.errors import InputError
from data_pipeline.images import Limits, read_image
from data_pipeline.raster import RasterStyle, draw_raster
from data_pipeline.tracking import FaceTracker
from data_pipeline.video import count_packets, probe, read_frames
from data_pipeline.voxceleb import PICTURE_SUFFIXES, VOXCELEB_FPS, Video, read_boxes

# Bumped whenever the same video would give another record.
RECORD_VERSION = 2

# Where a text file says which face speaks, look for it in this multiple of its box.
_AROUND_BOX = 2.0
# Without a face in the frame wanted, up to this many of its neighbours are tried.
_TRIES = 4
# Bytes of pictures and landmarks in a record: TFDS writes it as a Protocol Buffer, which
# ends at 2 GiB.
_MAX_RECORD = 2**31 - 2**26


@dataclasses.dataclass(frozen=True)
class Settings:
    """What decides the content of a record.

    Attributes:
      layout: a key of `voxceleb.LAYOUTS`; only VoxCeleb2's own crops are kept whole.
      size: side of the frames, pixels.
      frames_per_video: at most, spread evenly over its utterances; 0 keeps all.
      style: of the rasters.
      jpeg_quality: of the frames, 1 to 100.
      limits: what a file of the corpus may ask for.
    """

    layout: str = "voxceleb2"
    size: int = 256
    frames_per_video: int = 64
    style: RasterStyle = dataclasses.field(default_factory=RasterStyle)
    jpeg_quality: int = 95
    limits: Limits = dataclasses.field(default_factory=Limits)

    def __post_init__(self):
        if self.size < 16 or self.frames_per_video < 0:
            raise InputError(
                f"size {self.size} and frames_per_video {self.frames_per_video}: the "
                "size is at least 16 pixels, and 0 frames mean all"
            )

    @property
    def crop(self) -> str:
        """The crop convention: `whole_frame` or `follow_head`, as in `geometry`."""
        return "whole_frame" if self.layout == "voxceleb2" else "follow_head"

    def to_dict(self) -> dict[str, Any]:
        """As JSON values, with the version of the code that they were read by.

        Of the limits those that are not the default.
        """
        values = {**dataclasses.asdict(self), "record_version": RECORD_VERSION}
        default = dataclasses.asdict(Limits())
        limits = values.pop("limits")
        changed = {name: v for name, v in limits.items() if v != default[name]}
        return {**values, "limits": changed} if changed else values


@dataclasses.dataclass
class Counts:
    """What happened to the files and frames of some videos.

    Attributes:
      decoded: frames read.
      kept: frames in records.
      dropped: frames that were wanted but had no usable face, by reason.
      files: files that broke, wholly or half-way, by reason.
      problems: one line for each of those.
      seconds: of work.
    """

    decoded: int = 0
    kept: int = 0
    dropped: collections.Counter = dataclasses.field(
        default_factory=collections.Counter
    )
    files: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    problems: list[str] = dataclasses.field(default_factory=list)
    seconds: float = 0.0

    def add(self, other: Counts) -> None:
        self.decoded += other.decoded
        self.kept += other.kept
        self.dropped.update(other.dropped)
        self.files.update(other.files)
        self.problems.extend(other.problems)
        self.seconds += other.seconds

    def broken(self, error: InputError) -> None:
        self.files[error.reason] += 1
        self.problems.append(str(error))


@dataclasses.dataclass(frozen=True)
class _Shot:
    """One frame on offer: `position` of `total`, in an unbroken `take`.

    The face to find lies in `image`, whose top-left pixel is at `origin` of `frame`.
    """

    position: int
    total: int
    take: str
    time: float
    frame: np.ndarray
    image: np.ndarray
    origin: tuple[int, int] = (0, 0)


def prepare_video(
    video: Video, settings: Settings, beat: Callable[[], None] = lambda: None
) -> tuple[dict[str, Any] | None, Counts]:
    """Makes the record of one video.

    Args:
      video: what to read; files that break are counted, and what was decoded before
        is kept.
      beat: called for every frame, to show that the work goes on.

    Returns:
      The example (features as in `talking_heads_dataset_builder`; frames and rasters
      as JPEG and PNG bytes), or None if no frame has a usable face; and the counts.
    """
    start = time.monotonic()
    counts = Counts()
    example = collections.defaultdict(list)
    reader = _read_clips
    if video.boxes:
        reader = _read_boxed
    elif video.utterances[0].suffix.lower() in PICTURE_SUFFIXES:
        reader = _read_crops
    pick = _EvenPick(settings.frames_per_video)
    take, tracker, box, last = None, None, None, 0.0
    num_bytes = 0
    for shot in reader(video, settings, counts):
        beat()
        if shot is None:
            continue
        counts.decoded += 1
        if shot.take != take:
            take, box = shot.take, None
            # The detector checks the tracker every 8 frames, skipped ones included.
            check_every = max(1, 8 * settings.frames_per_video // shot.total)
            tracker = FaceTracker(
                settings.crop == "whole_frame",
                check_every=min(check_every, 8) if settings.frames_per_video else 8,
            )
        if not pick.wants(shot):
            continue
        landmarks = tracker.update(shot.image)
        reason = tracker.reason
        if landmarks is not None:
            landmarks = landmarks + np.float32(shot.origin)
            if settings.crop == "whole_frame":
                height, width, _ = shot.frame.shape
                box = geometry.whole_frame(width, height)
            else:
                # As if the box had followed the frames in between, too.
                box = geometry.follow_head(box, landmarks, shot.time - last)
                last = shot.time
            landmarks = geometry.to_crop(landmarks, box, settings.size)
            reason = None if _face_inside(landmarks, settings.size) else "off_frame"
        pick.tried(shot, good=reason is None)
        if reason is not None:
            counts.dropped[reason] += 1
            continue
        crop = geometry.crop(shot.frame, box, settings.size)
        drawn = draw_raster(landmarks, settings.size, settings.style)
        frame = packing.encode_jpeg(crop, settings.jpeg_quality)
        png = _encode_png(drawn)
        num_bytes += len(frame) + len(png) + landmarks.nbytes
        if num_bytes > _MAX_RECORD:
            counts.broken(_too_long(video, len(example["frames"])))
            break
        example["frames"].append(frame)
        example["rasters"].append(png)
        example["landmarks"].append(landmarks)
        example["utterance"].append(shot.take)
        example["frame_time"].append(shot.time)
    counts.kept = len(example["frames"])
    counts.seconds = time.monotonic() - start
    if not counts.kept:
        return None, counts
    return {
        **example,
        "video": video.key,
        "identity": video.identity,
        "landmarks": np.stack(example["landmarks"]),
        "frame_time": np.float32(example["frame_time"]),
    }, counts


def _too_long(video: Video, kept: int) -> InputError:
    return InputError(
        f"{video.utterances[0].parent}: a record holds {_MAX_RECORD / 1e9:.1f} GB, which "
        f"its first {kept} frames fill; cut the video, or give --frames-per-video",
        "too_long",
    )


class _EvenPick:
    """Picks frames evenly in time without knowing which of them have a face.

    The timeline is cut into as many slots as frames are wanted. The first frame of a
    slot is tried, and while it has no face a few more; the rest is only decoded.
    """

    def __init__(self, wanted: int):
        self.wanted = wanted
        self.slot, self.filled, self.next_try = -1, False, 0

    def wants(self, shot: _Shot) -> bool:
        if not self.wanted:
            return True
        slot = min(shot.position * self.wanted // shot.total, self.wanted - 1)
        if slot != self.slot:
            self.slot, self.filled, self.next_try = slot, False, shot.position
        return not self.filled and shot.position >= self.next_try

    def tried(self, shot: _Shot, good: bool) -> None:
        self.filled = good
        if self.wanted:
            self.next_try += max(1, shot.total // (self.wanted * _TRIES))


def _face_inside(landmarks: np.ndarray, size: int) -> bool:
    """Whether nearly all of a face is in the crop, and it is no speck."""
    inside = ((landmarks > -0.5) & (landmarks < size - 0.5)).all(-1).mean()
    return inside > 0.8 and np.ptp(landmarks[:, 0]) > size / 10


def _read_clips(video: Video, settings: Settings, counts: Counts) -> Iterator[_Shot]:
    """All frames of all utterances, one after another."""
    lengths = {}
    for path in video.utterances:
        try:
            lengths[path] = _num_frames(path, settings)
        except InputError as error:
            counts.broken(error)
    total, start = sum(lengths.values()), 0
    for path, length in lengths.items():
        try:
            for i, (seconds, frame) in enumerate(read_frames(path, settings.limits)):
                yield _Shot(start + i, total, path.stem, seconds, frame, frame)
        except InputError as error:
            counts.broken(error)
        start += length


def _num_frames(path: pathlib.Path, settings: Settings) -> int:
    """How many frames a file says it has, or would have at its rate."""
    if not settings.frames_per_video:
        return 1  # all are taken, so none need be counted
    info = probe(path, settings.limits)
    by_time = round((info.duration_s or 0) * info.fps)
    # Browsers' recordings say neither; the header of a fragmented mp4 counts its first
    # fragment alone.
    if not by_time or (info.num_frames and by_time > 1.1 * info.num_frames):
        return max(1, count_packets(path, settings.limits))
    return info.num_frames or by_time


def _read_crops(video: Video, settings: Settings, counts: Counts) -> Iterator[_Shot]:
    """VoxCeleb1's JPEG face crops, a second apart: each is a take of its own."""
    for i, path in enumerate(video.utterances):
        try:
            frame = read_image(path, settings.limits)
        except InputError as error:
            counts.broken(error)
            continue
        seconds = int(path.stem) / VOXCELEB_FPS
        yield _Shot(i, len(video.utterances), path.stem, seconds, frame, frame)


def _read_boxed(
    video: Video, settings: Settings, counts: Counts
) -> Iterator[_Shot | None]:
    """The frames of a whole video that have a box in one of the text files.

    None in the place of every other: they take time, too.
    """
    wanted = {}  # frame number -> utterance, box
    for path in video.boxes:
        try:
            for number, box in zip(*read_boxes(path)):
                wanted[int(number)] = path.stem, box
        except InputError as error:
            counts.broken(error)
    positions = {number: i for i, number in enumerate(sorted(wanted))}
    try:
        for seconds, frame in read_frames(video.utterances[0], settings.limits):
            if not wanted:
                break
            number = round(seconds * VOXCELEB_FPS)
            if number not in wanted:
                yield None
                continue
            utterance, box = wanted.pop(number)  # once, also in faster videos
            image, origin = _around(frame, box)
            if min(image.shape[:2]) >= settings.limits.min_side:
                yield _Shot(
                    *(positions[number], len(positions), utterance, seconds, frame),
                    *(image, origin),
                )
    except InputError as error:
        counts.broken(error)


def _around(frame: np.ndarray, box: np.ndarray) -> tuple[np.ndarray, tuple[int, int]]:
    """The part of a frame around a box (pixels, or fractions of the frame's sides)."""
    height, width, _ = frame.shape
    if box.max() <= 2:
        box = box * np.array([width, height, width, height])
    centre, reach = box[:2] + box[2:] / 2, box[2:] * _AROUND_BOX / 2
    left, top = np.maximum(centre - reach, 0).astype(int)
    right, bottom = np.maximum(centre + reach, 0).astype(int)
    return frame[top:bottom, left:right], (int(left), int(top))


def _encode_png(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()

"""The landmarks of one person through a video: detect seldom, track between."""

import dataclasses
import os
import pathlib
from collections.abc import Callable

import numpy as np

from data_pipeline import landmarks as lm
from data_pipeline import safe_files
from data_pipeline.errors import InputError
from data_pipeline.images import Limits, check_file, one_line
from data_pipeline.outputs import whole_file
from data_pipeline.video import probe, read_frames

_DOUBT = 0.012  # spread above which a frame is checked at once
_NEW_SPREAD = 0.0135  # largest of a face to start from; mouths pass for small faces
_CHECK_SCORE = -0.5  # smallest detector score at the place of a tracked face
_CHECK_BOX, _CHECK_SIDE = 100, 160  # pixels of the box and the chip of a check
_CUT = 0.5  # correlation of successive chips below which the scene may have changed
_JUMP = 0.05  # of the box centre between frames, in box sides: predict once more
_MAX_JUMP = 0.15  # and this: doubtful
_MAX_GROWTH = 1.1  # of the box between frames
_LONGEST = 640  # longest side, in pixels, searched in a frame
_LONGEST_CROPPED = 176  # faces fill about half the side of a VoxCeleb clip …
_MIN_CROPPED = 0.3  # … and this much at least
_THOROUGH_EVERY = 10  # frames without a face between two searches for small faces
_FORGET = 50  # frames after which a lost person's place does not count any more
_FARTHEST = 1e6  # pixels from the frame's corner
_MAX_BYTES = 2**28  # of an unpacked landmark file: half a million frames


class FaceTracker:
    """Follows one person's landmarks from frame to frame.

    The landmarks of a frame are predicted from where they were in the last one. Every
    few frames, and whenever predictions disagree or jump or the picture changes, the
    detector checks that place. The person followed is the most prominent at the
    start and after cuts; otherwise the nearest to where they were lost.

    Attributes:
      reason: why the last frame gave no landmarks: `no_face` (not found since the
        start), `lost` (followed before), or empty.
      num_frames: frames seen.
      num_searches: searches of a whole frame.
      num_checks: checks of the tracked place.
      most_faces: most faces seen in one frame.
    """

    def __init__(self, cropped: bool = False, check_every: int = 8):
        """Makes a tracker for one video.

        Args:
          cropped: frames are crops around one face, as in VoxCeleb: the search is
            faster and bolder, and prefers the central face.
          check_every: frames between two checks.
        """
        self._cropped = cropped
        self._check_every = check_every
        self._landmarks = None  # of the last frame, when tracked
        self._thumb = None  # of the last frame's chip
        self._place = None  # (centre, half) where the person was last
        self._missed = 0  # frames since then
        self._unchecked = 0
        self._shape = None
        self.reason = ""
        self.num_frames = self.num_searches = self.num_checks = self.most_faces = 0

    def update(self, frame: np.ndarray) -> np.ndarray | None:
        """Takes the next frame.

        Args:
          frame: uint8 [H, W, 3] RGB.

        Returns:
          float32 [68, 2], (x, y) pixels, or None; then `reason` tells why.
        """
        if frame.ndim != 3 or frame.shape[2] != 3 or frame.dtype != np.uint8:
            raise ValueError(f"frame is {frame.dtype} {frame.shape}, not uint8 [H,W,3]")
        self.num_frames += 1
        if frame.shape != self._shape:
            self._shape, self._landmarks, self._place = frame.shape, None, None
        found = self._follow(frame) if self._landmarks is not None else None
        if found is None:
            found = self._search(frame)
        self._landmarks = found
        if found is None:
            self.reason = "lost" if self._place is not None else "no_face"
            self._missed += 1
            return None
        self.reason = ""
        self._place, self._missed = lm.landmark_box(found)[:2], 0
        return found.copy()

    def _follow(self, frame: np.ndarray) -> np.ndarray | None:
        """The tracked face in the next frame; None when it is not there."""
        found, spread, chip = lm.refine_landmarks(frame, self._landmarks)
        last_thumb, self._thumb = self._thumb, _thumbnail(chip)
        doubt = last_thumb is not None and _correlation(last_thumb, self._thumb) < _CUT
        (x0, y0), half0, _ = lm.landmark_box(self._landmarks)
        (x1, y1), half1, _ = lm.landmark_box(found)
        jump = np.hypot(x1 - x0, y1 - y0) / (2 * half0)
        if jump > _JUMP:
            found, spread, _ = lm.refine_landmarks(frame, found)
        growth = max(half1 / half0, half0 / half1)
        doubt |= spread > _DOUBT or jump > _MAX_JUMP or growth > _MAX_GROWTH
        self._unchecked += 1
        if not doubt and self._unchecked < self._check_every:
            return found
        self._unchecked = 0
        return found if spread < lm.MAX_SPREAD and self._check(frame, found) else None

    def _check(self, frame: np.ndarray, landmarks: np.ndarray) -> bool:
        """Whether the detector, too, sees a face where the landmarks are."""
        self.num_checks += 1
        centre, half, roll = lm.landmark_box(landmarks)
        reach = half * _CHECK_SIDE / _CHECK_BOX
        chip = lm.face_chip(frame, centre, reach, roll, _CHECK_SIDE)
        middle, r = (_CHECK_SIDE - 1) / 2, _CHECK_BOX / 2
        expected = (middle - r, middle - r, middle + r, middle + r)
        boxes = lm.detect(chip, _CHECK_SIDE, _CHECK_SCORE)
        return any(_overlap(box, expected) > 0.4 for box, _ in boxes)

    def _search(self, frame: np.ndarray) -> np.ndarray | None:
        """The person in a frame about which nothing is known."""
        self.num_searches += 1
        self._thumb, self._unchecked = None, 0
        if self._cropped:
            boxes = lm.detect(frame, _LONGEST_CROPPED)
            boxes = boxes or lm.detect(frame, 2 * _LONGEST_CROPPED, _CHECK_SCORE, 1.5)
            least = _MIN_CROPPED * min(frame.shape[:2])
            boxes = [(box, score) for box, score in boxes if box[2] - box[0] > least]
        else:
            boxes = lm.detect(frame, _LONGEST)
            if not boxes and self._missed % _THOROUGH_EVERY == 0:
                boxes = lm.detect(frame, 2 * _LONGEST, upsample=2.0)
        self.most_faces = max(self.most_faces, len(boxes))
        order = sorted((box for box, _ in boxes), key=self._preference)
        for box in order:
            found, spread = lm.fit_landmarks(frame, box)
            if spread <= _NEW_SPREAD:
                return found
        return None

    def _preference(self, box: tuple[float, float, float, float]) -> tuple:
        """Sort key: the box at the person's last place, then the most prominent."""
        near = 0.0
        if self._place is not None and self._missed < _FORGET:
            (x, y), half = self._place
            near = _overlap(box, (x - half, y - half, x + half, y + half))
        return (-near if near > 0.2 else 0.0, -lm.prominence(box, self._shape))


def _thumbnail(chip: np.ndarray) -> np.ndarray:
    thumb = chip[::12, ::12].mean(axis=-1)  # [25, 25]
    return thumb - thumb.mean()


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    return float((a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum() + 1e-6))


def _overlap(a: tuple, b: tuple) -> float:
    """Intersection over union of two boxes."""
    width = max(min(a[2], b[2]) - max(a[0], b[0]), 0.0)
    height = max(min(a[3], b[3]) - max(a[1], b[1]), 0.0)
    area = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1])
    return width * height / (area - width * height)


@dataclasses.dataclass
class LandmarkTrack:
    """The landmarks of one person over a video: all that driving needs of it.

    Attributes:
      landmarks: float32 [F, 68, 2], (x, y) pixels; NaN rows where there is no face.
      frame_time: float64 [F], seconds, rising.
      width: of the frames, pixels.
      height: the same.
      fps: mean rate, frames a second.
      source: name of the video file, without its folder.
      problem: why the track ends before the video does, or empty.
    """

    landmarks: np.ndarray
    frame_time: np.ndarray
    width: int
    height: int
    fps: float
    source: str
    problem: str = ""

    @property
    def found(self) -> np.ndarray:
        """bool [F]: where there are landmarks."""
        return np.isfinite(self.landmarks).all(axis=(1, 2))

    def save(self, path: str | os.PathLike) -> None:
        """Writes an .npz file; it appears under its name only when complete.

        Raises:
          InputError: `unwritable`.
        """
        try:
            with whole_file(path) as part, open(part, "wb") as file:
                np.savez(file, **dataclasses.asdict(self))
        except OSError as error:
            raise InputError(
                f"{path}: cannot be written ({one_line(error)}); check its folder.",
                "unwritable",
            ) from error

    @classmethod
    def load(cls, path: str | os.PathLike) -> "LandmarkTrack":
        """Reads what `save` wrote; never unpickles.

        Raises:
          InputError: `missing`, `empty` or `not_landmarks`.
        """
        absolute = check_file(path)
        names = [field.name for field in dataclasses.fields(cls)]
        try:
            data = safe_files.read_npz(absolute, _MAX_BYTES, names)
            track = cls(
                landmarks=data["landmarks"].astype(np.float32),
                frame_time=data["frame_time"].astype(np.float64),
                width=int(data["width"]),
                height=int(data["height"]),
                fps=float(data["fps"]),
                source=str(data["source"]),
                problem=str(data["problem"]),
            )
            track._validate()
        except Exception as error:
            raise InputError(
                f"{path}: is not a landmark file ({one_line(error)}); make it again "
                "from the video.",
                "not_landmarks",
            ) from error
        return track

    def _validate(self) -> None:
        frames = len(self.frame_time)
        if self.landmarks.shape != (frames, 68, 2) or self.frame_time.ndim != 1:
            raise ValueError(f"landmarks of shape {self.landmarks.shape}")
        rising = (np.diff(self.frame_time) > 0).all()
        if not (np.isfinite(self.frame_time).all() and rising):
            raise ValueError("times that are not finite and rising")
        broken = np.isnan(self.landmarks).any(axis=(1, 2)) & ~np.isnan(
            self.landmarks
        ).all(axis=(1, 2))
        if broken.any() or np.isinf(self.landmarks).any():
            raise ValueError("landmarks that are not finite")
        if not self.found.any():
            raise ValueError("no face in any frame")
        faces = self.landmarks[self.found]
        small = np.ptp(faces, axis=1).min() < 1
        if small or np.abs(faces).max() > _FARTHEST:
            raise ValueError("landmarks that are no face")
        if not (self.width > 0 and self.height > 0 and 0 < self.fps < np.inf):
            raise ValueError("bad size or rate")


def track_video(
    path: str | os.PathLike,
    limits: Limits | None = None,
    cropped: bool = False,
    on_frame: Callable[[float, np.ndarray, np.ndarray | None], None] | None = None,
) -> LandmarkTrack:
    """Landmarks of the person in a video, in one pass and constant memory.

    A video that breaks half-way gives the track of its good part, and its `problem`.

    Args:
      path: video file.
      limits: what the file may ask for.
      cropped: see `FaceTracker`.
      on_frame: called as `on_frame(time_s, frame, landmarks or None)`, for progress
        or to keep frames.

    Raises:
      InputError: `no_face` if no frame has one; else as `read_frames` for a video of
        which not one frame can be decoded.
    """
    info = probe(path, limits)
    tracker = FaceTracker(cropped)
    rows, times, problem = [], [], ""
    missing = np.full((68, 2), np.nan, np.float32)
    try:
        for time, frame in read_frames(path, limits):
            found = tracker.update(frame)
            rows.append(missing if found is None else found)
            times.append(time)
            if on_frame is not None:
                on_frame(time, frame, found)
    except InputError as error:
        if error.reason not in ("truncated", "size_changes"):
            raise
        problem = str(error)
    track = LandmarkTrack(
        landmarks=np.stack(rows),
        frame_time=np.array(times, np.float64),
        width=info.width,
        height=info.height,
        fps=info.fps,
        source=pathlib.Path(path).name,
        problem=problem,
    )
    if not track.found.any():
        raise InputError(
            f"{path}: no face found in its {len(rows)} frames; use a clip in which a "
            "face looks towards the camera.",
            "no_face",
        )
    return track

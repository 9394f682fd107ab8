"""Frames to an H.264 mp4, with the driver's timing and sound."""

import contextlib
import fractions
import os
import pathlib
import uuid

import numpy as np

from data_pipeline.errors import InputError
from data_pipeline.images import Limits, one_line
from data_pipeline.sound import Sound

_TIME_BASE = fractions.Fraction(1, 90_000)
_BT709 = 1  # FFmpeg's number for the colour matrix, primaries and transfer
_LIMITED = 1  # and for 16..235


class VideoWriter:
    """Writes uint8 RGB frames to an mp4 that any player opens.

    The file appears under its name only when the `with` block ends well; an
    exception leaves nothing behind, and an older file of that name untouched. The
    first frame is shown at 0 s. Sound is taken from the time span of the frames, so
    it stays in step when the driver's first frames were dropped.

    Frames of odd width or height get one more column or row, a copy of the last.

    Attributes:
      audio: `none`, `copied` (same packets) or `encoded` (to AAC).
    """

    def __init__(
        self,
        path: str | os.PathLike,
        width: int,
        height: int,
        fps: float,
        audio_from: str | os.PathLike | None = None,
        crf: int = 18,
        limits: Limits | None = None,
        comment: str = "",
    ):
        """Opens the output.

        Args:
          path: the mp4 to write; its folder must exist.
          width: of the frames, pixels.
          height: the same.
          fps: nominal rate; spaces the frames that come without a time.
          audio_from: media file whose first audio stream is kept, if it has one.
          crf: x264 quality, 0 (lossless) to 51; 18 looks like the original.
          limits: what `audio_from` may ask for.
          comment: kept in the file's metadata.

        Raises:
          InputError: `unwritable`, or `audio_from` is not a media file.
        """
        if not (width > 0 and height > 0 and fps > 0):
            raise ValueError(f"bad size or rate: {width}x{height} at {fps}")
        self._path = pathlib.Path(path)
        self._shape = (height, width, 3)
        self._fps = fps
        self._start = None  # time_s of the first frame
        self._last = -1  # pts of the last frame
        self._last_time = -np.inf  # time_s of the last frame
        self._audio = None
        self._container = None
        self.audio = "none"
        if self._path.is_dir() or not self._path.parent.is_dir():
            raise InputError(
                f"{path}: cannot be written; its folder must exist and the name must "
                "be that of a file.",
                "unwritable",
            )
        name = f".{self._path.stem}.{uuid.uuid4().hex[:8]}.part"
        self._part = self._path.with_name(name)
        try:
            if audio_from is not None:
                self._audio = Sound(audio_from, limits)
            self._open(crf, comment)
        except BaseException:
            self._discard()
            raise

    def _open(self, crf: int, comment: str) -> None:
        with self._writing():
            try:
                import av
            except ImportError as error:
                raise InputError(
                    f'{self._path}: PyAV writes videos; pip install "flax-heads[data]", '
                    "or name a .gif or .webp",
                    "missing_package",
                ) from error
            self._part.touch()  # FFmpeg opens it only with the first packet
            self._container = av.open(
                str(self._part.absolute()),
                "w",
                format="mp4",
                options={"movflags": "+faststart"},
            )
            if comment:
                self._container.metadata["comment"] = comment
            rate = fractions.Fraction(self._fps).limit_denominator(1001)
            stream = self._container.add_stream("libx264", rate=rate)
            height, width, _ = self._shape
            stream.width, stream.height = width + width % 2, height + height % 2
            stream.pix_fmt = "yuv420p"
            stream.options = {"crf": str(crf)}
            context = stream.codec_context
            context.time_base = _TIME_BASE
            context.colorspace = context.color_primaries = context.color_trc = _BT709
            context.color_range = _LIMITED
            self._video = stream
            if self._audio is not None and self._audio.stream is not None:
                self.audio = self._audio.attach(self._container)

    def write(self, frame: np.ndarray, time_s: float | None = None) -> None:
        """Appends a frame.

        Args:
          frame: uint8 [H, W, 3] RGB of the size given at the start.
          time_s: when it is shown, in the driver's time; must rise from frame to
            frame. None: one nominal frame after the last.

        Raises:
          ValueError: wrong shape, dtype or time.
          InputError: `unwritable`, for example when the disk is full.
        """
        frame = np.asarray(frame)
        if frame.shape != self._shape or frame.dtype != np.uint8:
            raise ValueError(
                f"frame is {frame.dtype} {frame.shape}, not uint8 {self._shape}"
            )
        step = round(1.0 / (self._fps * _TIME_BASE))
        if self._start is None:
            self._start = 0.0 if time_s is None else float(time_s)
            pts = 0
        elif time_s is None:
            pts = self._last + step
        elif time_s <= self._last_time:
            raise ValueError(f"time {time_s} s does not come after the last frame's")
        else:  # times may differ by less than a tick
            pts = max(round((time_s - self._start) / _TIME_BASE), self._last + 1)
        with self._writing():
            import av

            height, width, _ = self._shape
            if height % 2 or width % 2:
                pad = ((0, height % 2), (0, width % 2), (0, 0))
                frame = np.pad(frame, pad, mode="edge")
            picture = av.VideoFrame.from_ndarray(
                np.ascontiguousarray(frame), "rgb24"
            ).reformat(
                format="yuv420p", dst_colorspace=_BT709, dst_color_range=_LIMITED
            )
            picture.pts, picture.time_base = pts, _TIME_BASE
            picture.duration = step
            self._container.mux(self._video.encode(picture))
            self._last = pts
            self._last_time = self._end(0) if time_s is None else float(time_s)
            if self.audio != "none":
                self._audio.pump(self._container, self._start, self._end(0))

    def _end(self, extra: int) -> float:
        """Driver's time of the last frame plus `extra` ticks."""
        return self._start + float((self._last + extra) * _TIME_BASE)

    def close(self) -> None:
        """Finishes the file and gives it its name.

        Raises:
          InputError: `unwritable`, also when no frame was written.
        """
        if self._container is None:
            return
        try:
            with self._writing():
                if self._start is None:
                    raise InputError(
                        f"{self._path}: no frame to write; nothing was made.",
                        "no_frames",
                    )
                self._container.mux(self._video.encode())
                if self.audio != "none":
                    step = round(1.0 / (self._fps * _TIME_BASE))
                    self._audio.pump(self._container, self._start, self._end(step))
                    self._audio.finish(self._container)
                self._container.close()
                self._container = None
                os.replace(self._part, self._path)
        finally:
            self._discard()

    def _discard(self) -> None:
        """Closes everything and removes what is unfinished; never raises."""
        if self._audio is not None:
            self._audio.close()
        if self._container is not None:
            container, self._container = self._container, None
            # The failure that brought us here is the one to tell.
            with contextlib.suppress(Exception):
                container.close()
        self._part.unlink(missing_ok=True)

    def _writing(self):
        return _WriteGate(self._path)

    def __enter__(self) -> "VideoWriter":
        return self

    def __exit__(self, kind, error, trace) -> None:
        if kind is None:
            self.close()
        else:
            self._discard()


class _WriteGate:
    """Turns failures to write into one `InputError`."""

    def __init__(self, path: pathlib.Path):
        self._path = path

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind, error, trace) -> None:
        if isinstance(error, Exception) and not isinstance(error, InputError):
            raise InputError(
                f"{self._path}: cannot be written ({one_line(error)}); check the free "
                "space and the rights of its folder.",
                "unwritable",
            ) from error

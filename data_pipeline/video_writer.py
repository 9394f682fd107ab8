"""Frames to an H.264 mp4, with the driver's timing and sound."""

import contextlib
import fractions
import os
import pathlib
import uuid

import numpy as np

from data_pipeline.errors import InputError
from data_pipeline.images import one_line
from data_pipeline.video import open_container

_TIME_BASE = fractions.Fraction(1, 90_000)
_COPIED = ("aac", "mp3", "ac3", "eac3", "alac", "opus")  # audio that mp4 players know
_AAC_RATES = (8000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000)
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
    ):
        """Opens the output.

        Args:
          path: the mp4 to write; its folder must exist.
          width: of the frames, pixels.
          height: the same.
          fps: nominal rate; spaces the frames that come without a time.
          audio_from: media file whose first audio stream is kept, if it has one.
          crf: x264 quality, 0 (lossless) to 51; 18 looks like the original.

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
                self._audio = _AudioSource(audio_from)
            self._open(crf)
        except BaseException:
            self._discard()
            raise

    def _open(self, crf: int) -> None:
        with self._writing():
            import av

            self._part.touch()  # FFmpeg opens it only with the first packet
            self._container = av.open(
                str(self._part.absolute()),
                "w",
                format="mp4",
                options={"movflags": "+faststart"},
            )
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
        else:
            pts = round((time_s - self._start) / _TIME_BASE)
        if pts <= self._last:
            raise ValueError(f"time {time_s} s does not come after the last frame's")
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


class _AudioSource:
    """The first audio stream of a file, handed on piece by piece.

    Damaged sound ends where the damage begins: the pictures matter more.
    """

    def __init__(self, path: str | os.PathLike):
        self._opened = open_container(path, sound_files=True)
        container = self._opened.__enter__()
        # Without a decoder's context: a codec that is unknown here, or damage.
        streams = [s for s in container.streams.audio if s.codec_context is not None]
        self.stream = streams[0] if streams else None
        self._origin = (container.start_time or 0) / 1e6
        self._pending = None  # the piece that was read too early
        self._container = container

    def attach(self, output) -> str:
        """Adds the stream to `output`; tells whether it is copied or encoded."""
        context = self.stream.codec_context
        name = context.codec.canonical_name
        # AAC without a header (ADTS) cannot go into an mp4 as it is, nor can a damaged
        # stream that tells no rate.
        told = 8000 <= context.rate <= 96_000 and 1 <= context.channels <= 8
        if name in _COPIED and told and (name != "aac" or context.extradata):
            self._output = output.add_stream_from_template(self.stream)
            self._copied = True
            self._pieces = self._packets()
            return "copied"
        rate = context.rate if context.rate in _AAC_RATES else 48_000
        self._output = output.add_stream("aac", rate=rate)
        self._output.layout = "mono" if context.channels == 1 else "stereo"
        self._output.bit_rate = 128_000
        self._copied = False
        self._pieces = self._frames()
        return "encoded"

    def _packets(self):
        try:
            for packet in self._container.demux(self.stream):
                if packet.pts is not None and packet.dts is not None and packet.size:
                    yield packet
        except Exception:  # damaged
            return

    def _frames(self):
        try:
            for frame in self._container.decode(self.stream):
                if frame.pts is not None:
                    yield frame
        except Exception:  # damaged
            return

    def pump(self, output, start: float, until: float) -> None:
        """Moves what is heard from `start` to `until` (s of the source)."""
        while True:
            if self._pending is None:
                self._pending = next(self._pieces, None)
            piece = self._pending
            if piece is None:
                return
            begin = float(piece.pts * piece.time_base) - self._origin
            if begin >= until:
                return
            self._pending = None
            if self._copied:
                # One packet too many in front, hidden by the file's edit list:
                # decoders need it to begin well.
                length = 2.0 * float((piece.duration or 0) * piece.time_base)
            else:
                length = piece.samples / piece.sample_rate / 2.0
            if begin + length <= start:
                continue
            shift = round((start + self._origin) / piece.time_base)
            piece.pts -= shift
            if self._copied:
                piece.dts -= shift
                piece.stream = self._output
                output.mux(piece)
            else:
                output.mux(self._output.encode(piece))

    def finish(self, output) -> None:
        """Flushes the encoder."""
        if not self._copied:
            output.mux(self._output.encode())

    def close(self) -> None:
        self._opened.__exit__(None, None, None)

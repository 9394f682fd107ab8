"""Video files as streams of upright RGB frames with their true times."""

import contextlib
import dataclasses
import os
import time
from collections.abc import Iterator

import numpy as np

from data_pipeline.errors import InputError
from data_pipeline.images import Limits, check_file, check_size, one_line

# Containers that hold their media themselves. Others (ffconcat, hls, …) are small
# texts that make the decoder open further local files.
_CONTAINERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegts"
_SOUND_FILES = ",wav,mp3,flac,ogg,aac"
_CODECS = (
    "h264,hevc,av1,vp8,vp9,mpeg1video,mpeg2video,mpeg4,msmpeg4v2,msmpeg4v3,h263,mjpeg,"
    "theora,prores,dnxhd,dvvideo,ffv1,huffyuv,rawvideo,wmv1,wmv2,wmv3,vc1"
)
_REENCODE = "re-encode it to H.264 mp4, for example with ffmpeg"

_UNSPECIFIED = 2  # colour space, in FFmpeg
_HD_HEIGHT = 720


@dataclasses.dataclass(frozen=True)
class VideoInfo:
    """What a video file says about itself, before any frame is decoded.

    Attributes:
      width: of the frames as shown, in pixels (upright, square pixels).
      height: the same.
      fps: mean frame rate, frames a second; 25.0 where the file does not say.
      duration_s: length in seconds, None where unknown.
      num_frames: as declared by the file, None where unknown.
      has_audio: whether there is at least one audio stream.
    """

    width: int
    height: int
    fps: float
    duration_s: float | None
    num_frames: int | None
    has_audio: bool


def probe(path: str | os.PathLike, limits: Limits | None = None) -> VideoInfo:
    """Reads sizes, rate and length; decodes one frame, for the true orientation.

    Raises:
      InputError: as `read_frames`.
    """
    limits = limits or Limits()
    with open_container(path, limits=limits) as container:
        stream = _video_stream(path, container, limits)
        frame = next(_decode(path, container, stream, limits))
        width, height = _shown_size(path, frame, stream, limits)
        pixels = np.broadcast_to(np.uint8(0), (height, width, 3))
        height, width, _ = _upright(pixels, _display_matrix(frame)).shape
        return VideoInfo(
            width=width,
            height=height,
            fps=_rate(stream),
            duration_s=_duration(container, stream),
            num_frames=stream.frames or None,
            has_audio=bool(container.streams.audio),
        )


def count_packets(path: str | os.PathLike, limits: Limits | None = None) -> int:
    """How many frames a file holds, up to damage: all of it is read, nothing decoded.

    Raises:
      InputError: as `read_frames`, before the first frame.
    """
    limits = limits or Limits()
    with open_container(path, limits=limits) as container:
        count, stream = 0, _video_stream(path, container, limits)
        with contextlib.suppress(Exception):  # to be told when it is decoded
            for packet in container.demux(stream):
                count += packet.size > 0
        return count


def read_frames(
    path: str | os.PathLike, limits: Limits | None = None, decode_threads: int = 1
) -> Iterator[tuple[float, np.ndarray]]:
    """Streams the frames of a video, one in memory at a time.

    Frames are turned upright by the file's display matrix, and stretched to square
    pixels. Times rise strictly.

    Args:
      path: an mp4, mov, mkv, webm, avi, mpg or ts file.
      limits: what the file may ask for.
      decode_threads: threads of the decoder; 0 lets FFmpeg choose. One is best
        where files are already shared out to processes.

    Yields:
      `(time_s, frame)`: seconds since the start of the file's streams, and a fresh
      uint8 [H, W, 3] RGB array.

    Raises:
      InputError: before the first frame for a file that is `missing`, `empty`,
        `unreadable`, `no_video`, `unsupported`, `too_large`, `too_small` or
        `too_long`. After some good frames, which the caller may keep:
        `truncated` for damage, `size_changes`, `too_long`, `too_slow`.
    """
    limits = limits or Limits()
    with open_container(path, limits=limits) as container:
        stream = _video_stream(path, container, limits)
        stream.codec_context.thread_count = decode_threads
        stream.codec_context.thread_type = "SLICE" if decode_threads == 1 else "AUTO"
        step = 1.0 / _rate(stream)
        origin = (container.start_time or 0) / 1e6
        seconds, size = -np.inf, None
        for count, frame in enumerate(_decode(path, container, stream, limits)):
            if size is None:
                size = (frame.width, frame.height)
                width, height = _shown_size(path, frame, stream, limits)
                matrix = _display_matrix(frame)
                # Players take such for BT.709, FFmpeg for BT.601. JPEG is the latter.
                untagged_hd = (
                    frame.colorspace == _UNSPECIFIED
                    and frame.height >= _HD_HEIGHT
                    and not frame.format.name.startswith("yuvj")
                )
            if (frame.width, frame.height) != size:
                raise InputError(
                    f"{path}: the frame size changes from {size[0]}x{size[1]} to "
                    f"{frame.width}x{frame.height} at frame {count}; {_REENCODE}.",
                    "size_changes",
                )
            with gate(path):
                shown = frame.time - origin if frame.time is not None else -np.inf
                # Missing or repeated time stamps: assume the steady rate.
                seconds = shown if shown > seconds else max(seconds + step, 0.0)
                _check_length(path, limits, seconds, count + 1)
                rgb = frame.to_ndarray(
                    width=width,
                    height=height,
                    format="rgb24",
                    src_colorspace="ITU709" if untagged_hd else None,
                    interpolation="BICUBIC",
                )
                rgb = np.ascontiguousarray(_upright(rgb, matrix))
            yield seconds, rgb


@contextlib.contextmanager
def open_container(
    path: str | os.PathLike, sound_files: bool = False, limits: Limits | None = None
):
    """Opens a media file for reading with PyAV, refusing what is not media.

    Args:
      path: the file.
      sound_files: accepts wav, mp3, flac, ogg and aac too.
      limits: what the file may ask for.
    """
    limits = limits or Limits()
    try:
        import av
    except ImportError as error:
        raise InputError(
            f'{path}: PyAV reads videos; pip install "flax-heads[data]".',
            "missing_package",
        ) from error
    absolute = check_file(path, limits.max_bytes)
    formats = _CONTAINERS + (_SOUND_FILES if sound_files else "")
    options = {
        "format_whitelist": formats,
        "protocol_whitelist": "file",
        "max_streams": str(limits.max_streams + 1),  # FFmpeg ignores those beyond
    }
    with gate(path):
        container = av.open(
            str(absolute), options=options, timeout=limits.max_decode_seconds
        )
    with container:
        if len(container.streams) > limits.max_streams:
            raise InputError(
                f"{path}: more streams than the limit of {limits.max_streams}; "
                f"{_REENCODE}.",
                "too_many_streams",
            )
        yield container


@contextlib.contextmanager
def gate(path: str | os.PathLike, frames: int = 0):
    """Turns whatever PyAV raises into one `InputError`.

    Args:
      path: the name to report.
      frames: how many frames were decoded before.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        # FFmpegError, IndexError, ValueError, MemoryError and more have been seen.
        if type(error).__name__ == "ExitError":  # PyAV's, at its time-out
            raise _too_slow(path) from error
        text = getattr(error, "strerror", None) or one_line(error)
        if frames:
            raise InputError(
                f"{path}: damaged after {frames} good frames ({text}); use an intact "
                "copy, or cut it there.",
                "truncated",
            ) from error
        raise InputError(
            f"{path}: cannot be decoded as a video ({text}); use an intact copy, or "
            f"{_REENCODE}.",
            "unreadable",
        ) from error


def _video_stream(path, container, limits: Limits):
    """The first real video stream, checked against `limits` before decoding."""
    streams = [s for s in container.streams.video if s.codec_context is not None]
    if not streams:
        raise InputError(f"{path}: has no video stream; name a video.", "no_video")
    stream = streams[0]
    context = stream.codec_context
    codec = context.codec.canonical_name
    if codec not in _CODECS.split(","):
        raise InputError(
            f"{path}: the codec {codec} is not supported; {_REENCODE}.", "unsupported"
        )
    if context.width and context.height:
        check_size(
            path, context.width, context.height, limits.max_pixels, limits.min_side
        )
    context.options = {"max_pixels": str(limits.max_pixels)}
    duration = _duration(container, stream) or 0.0
    _check_length(path, limits, duration, stream.frames)
    return stream


def _decode(path, container, stream, limits: Limits) -> Iterator:
    """PyAV frames; damage and a missing end are an `InputError`."""
    frames = _packet_frames(path, container, stream, limits.max_decode_seconds)
    count = 0
    while True:
        with gate(path, frames=count):
            frame = next(frames, None)
        if frame is None:
            break
        count += 1
        yield frame
    if not count:
        raise _no_frame(path)
    # A cut between two packets decodes without an error: ask the index.
    end = max((e.pos + e.size for e in stream.index_entries), default=0)
    if end > os.path.getsize(path):
        raise InputError(
            f"{path}: ends after {count} frames, before its index does; "
            "use an intact copy.",
            "truncated",
        )


def _packet_frames(path, container, stream, max_decode_seconds: float) -> Iterator:
    """Decoded frames up to the damage, if any, then PyAV's exception.

    Decoders hold frames back to put them in order: those are still good.
    """
    packets, spent = container.demux(stream), 0.0
    try:
        while True:
            start = time.monotonic()
            packet = next(packets, None)
            frames = stream.decode(packet) if packet is not None else ()
            spent += time.monotonic() - start
            if spent > max_decode_seconds:
                raise _too_slow(path)
            yield from frames
            if packet is None:
                return
    except InputError:
        raise
    except Exception:
        with contextlib.suppress(Exception):
            held = stream.decode(None)
            yield from (frame for frame in held if not frame.is_corrupt)
        raise


def _too_slow(path) -> InputError:
    return InputError(
        f"{path}: decoding takes longer than the limit; cut it, or {_REENCODE}.",
        "too_slow",
    )


def _no_frame(path) -> InputError:
    return InputError(
        f"{path}: not one frame can be decoded; use an intact copy.", "unreadable"
    )


def _check_length(path, limits: Limits, seconds: float, frames: int) -> None:
    if frames > limits.max_frames or seconds > limits.max_seconds:
        raise InputError(
            f"{path}: {frames} frames or {seconds:.0f} s is longer than the limit "
            f"({limits.max_frames} frames, {limits.max_seconds:.0f} s); cut it.",
            "too_long",
        )


def _rate(stream) -> float:
    rate = stream.average_rate or stream.guessed_rate
    return float(rate) if rate and 0.1 <= rate <= 1000 else 25.0


def _duration(container, stream) -> float | None:
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    return container.duration / 1e6 if container.duration else None


def _shown_size(path, frame, stream, limits: Limits) -> tuple[int, int]:
    """Size of a decoded frame with square pixels; no side ever shrinks."""
    width, height = frame.width, frame.height
    aspect = stream.sample_aspect_ratio
    aspect = float(aspect) if aspect else 1.0
    if aspect > 1.0 and aspect <= 4.0:
        width = round(width * aspect)
    elif 0.25 <= aspect < 1.0:
        height = round(height / aspect)
    check_size(path, width, height, limits.max_pixels, limits.min_side)
    return width, height


def _display_matrix(frame) -> tuple[int, int, int, int]:
    """(a, b, c, d): the pixel (x, y) is shown at (a x + c y, b x + d y), but for a shift.

    Ask one frame of a file: PyAV's side data and its frame hold each other, so that
    every frame that is asked stays in memory for a while.
    """
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return 1, 0, 0, 1
    a, b, _, c, d, *_ = np.frombuffer(bytes(matrix), np.int32).tolist()
    return a, b, c, d


def _upright(rgb: np.ndarray, matrix: tuple[int, int, int, int]) -> np.ndarray:
    """The picture turned, and mirrored, by whichever quarter turn is nearest."""
    a, b, c, d = matrix
    across, down = a, d
    if abs(a) < abs(b):
        rgb, across, down = rgb.transpose(1, 0, 2), c, b
    return rgb[:: -1 if down < 0 else 1, :: -1 if across < 0 else 1]

"""The driver's sound, on its way into another file: copied where it can be."""

import contextlib
import os

from data_pipeline.images import Limits
from data_pipeline.video import open_container

_COPIED = ("aac", "mp3", "ac3", "eac3", "alac", "opus")  # what mp4 players know
_AAC_RATES = (8000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000)


class Sound:
    """The first audio stream of a file, handed on piece by piece.

    Sound that is damaged, or that no mp4 can hold, ends where the trouble begins, and
    where its time goes back it is silent: the pictures matter more.

    Attributes:
      stream: PyAV's, or None.
    """

    def __init__(self, path: str | os.PathLike, limits: Limits | None = None):
        self._opened = open_container(path, sound_files=True, limits=limits)
        container = self._opened.__enter__()
        # Without a decoder's context: a codec that is unknown here, or damage.
        streams = [s for s in container.streams.audio if s.codec_context is not None]
        self.stream = streams[0] if streams else None
        self._origin = (container.start_time or 0) / 1e6
        self._pending = None  # the piece that was read too early
        self._last = None  # time stamp of the last piece, in the source
        self._format = self._resampler = None
        self._container = container

    def attach(self, output) -> str:
        """Adds the stream to `output`; tells whether it is `copied` or `encoded`."""
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
        """Moves what is heard from `start` to `until` (s of the source).

        Raises whatever keeps the file from being written, as a full disk does.
        """
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
            stamp = piece.dts if self._copied else piece.pts
            if self._last is not None and stamp <= self._last:
                continue
            self._last = stamp
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
            try:
                if self._copied:
                    piece.dts -= shift
                    piece.stream = self._output
                    output.mux(piece)
                else:
                    for frame in self._resample(piece):
                        output.mux(self._output.encode(frame))
            except ValueError:  # FFmpeg's invalid argument or data; a full disk is none
                self._pieces = iter(())
                return

    def _resample(self, frame):
        """Frames as the encoder takes them; what comes may change on the way."""
        import av

        comes = (frame.format.name, frame.layout.name, frame.sample_rate)
        if comes != self._format:
            context = self._output.codec_context
            self._format = comes
            self._resampler = av.AudioResampler(
                context.format, context.layout, context.sample_rate
            )
        return self._resampler.resample(frame)

    def finish(self, output) -> None:
        """Flushes the encoder."""
        if not self._copied:
            with contextlib.suppress(ValueError):  # as in `pump`
                output.mux(self._output.encode())

    def close(self) -> None:
        self._opened.__exit__(None, None, None)

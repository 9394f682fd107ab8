"""Driving a talking head with a clip or a saved landmark track, streaming."""

from __future__ import annotations

import contextlib
import os
import pathlib
import struct
from collections.abc import Callable, Iterator

import numpy as np
from PIL import Image

from data_pipeline import face_model, geometry
from data_pipeline.errors import InputError
from data_pipeline.images import Limits
from data_pipeline.landmarks import load_predictor
from data_pipeline.outputs import whole_file
from data_pipeline.raster import draw_raster
from data_pipeline.read_ahead import read_ahead
from data_pipeline.tracking import LandmarkTrack, track_video
from data_pipeline.video import read_frames
from data_pipeline.video_writer import VideoWriter
from flax_heads import provenance
from flax_heads.console import log
from flax_heads.corrections import animate_corrected
from flax_heads.figures import contact_sheet
from flax_heads.talking_head import TalkingHead

_SHEET_FRAMES = 8
_SMALLEST_OUTPUT = 256  # pixels; smaller heads are enlarged for the viewer
TRANSFERS = ("relative", "absolute", "none")
_PICTURES = (".gif", ".webp")


def drive(
    head: TalkingHead,
    driving: str | os.PathLike,
    output: str | os.PathLike,
    *,
    transfer: str = "relative",
    corrections: int = 0,
    side_by_side: bool = False,
    track: LandmarkTrack | None = None,
    limits: Limits | None = None,
    on_progress: Callable[[str, int, int | None], None] = lambda stage, n, total: None,
) -> dict[str, int]:
    """Animates `head` with a driver and writes the video and a contact sheet beside it.

    The driver's frame times and sound are kept, and the output says in its metadata that
    it is synthetic (`provenance`). Of the driver's video a few frames are
    in memory at a time; its landmarks (half a kilobyte a frame) are kept whole, because
    the shape of the driver's face is judged by frames of the whole clip, and a gap is
    filled from both its ends. Landmarks therefore come first; then decoding, the
    generator, the layout and the encoder work at once, each in its own thread. A `.gif`
    or `.webp` is held whole until it is written.

    Args:
      head: whom to animate.
      driving: a video, or a landmark track (`.npz`) saved by `flax-heads track`.
      output: `.mp4` (needs PyAV), or `.gif` / `.webp` without sound.
      transfer: what of the driver moves the person, one of `TRANSFERS`; see
        `adapt_landmarks`.
      corrections: how often each frame is drawn again where its face came out short of
        the landmarks; see `corrections.animate_corrected`, which needs dlib.
      side_by_side: show source, driver and result next to each other.
      track: the landmarks of `driving` by `find_track`, where they are known already:
        of a clip that drives several heads, for example.
      limits: what the driving video may ask for.
      on_progress: called with ("landmarks" or "frames", done, total or None).

    Returns:
      counts: "frames", and "without_face", whose pose was interpolated.

    Raises:
      InputError: the driver cannot be read or shows no face; the output is of another
        kind, or the driver itself; no such `transfer`; corrections without dlib.
    """
    check_transfer(transfer)
    if corrections:
        load_predictor()  # before all the work, where it is missing
    output = pathlib.Path(output)
    if output.suffix.lower() not in (".mp4", *_PICTURES):
        raise InputError(f"{output}: write to .mp4, .gif or .webp", "output")
    if output.is_dir() or not output.parent.is_dir():
        raise InputError(f"{output}: name a file in a folder that exists", "output")
    if output.exists() and pathlib.Path(driving).exists() and output.samefile(driving):
        raise InputError(f"{output}: is the driver; write to another file", "output")
    track = track or find_track(driving, limits, on_progress)
    if track.problem:
        log.warning(
            "%s; it drives %d frames, up to there", track.problem, len(track.found)
        )
    boxes, in_crop = crop_track(track, head.size)
    points = adapt_landmarks(head.landmarks, in_crop, transfer)
    sheet = _Sheet(len(points))
    video = None if _is_track(driving) else driving
    crops = _driver_crops(video, boxes, points, head, limits)
    drawn = (
        animate_corrected(head, points, corrections)
        if corrections
        else head.animate(points)
    )
    composed = read_ahead(_compose(head, drawn, crops, side_by_side, sheet))
    with contextlib.closing(composed) as frames:  # ends its threads, whatever happens
        if output.suffix.lower() == ".mp4":
            _write_video(output, frames, track, video, limits, on_progress)
        else:
            _write_pictures(output, frames, track, on_progress)
    with whole_file(sheet_beside(output)) as part:
        options = provenance.save_options(part.suffix)
        Image.fromarray(sheet.draw()).save(part, **options)
    return {"frames": len(points), "without_face": int((~track.found).sum())}


def find_track(
    driving: str | os.PathLike,
    limits: Limits | None = None,
    on_progress: Callable[[str, int, int | None], None] = lambda stage, n, total: None,
) -> LandmarkTrack:
    """The landmarks of a driver, a video or a saved track; arguments as `drive`'s.

    Raises:
      InputError: it cannot be read or shows no face.
    """
    if _is_track(driving):
        return LandmarkTrack.load(driving)
    seen = iter(range(1, 1 << 62))
    return track_video(
        driving,
        limits=limits,
        on_frame=lambda *_: on_progress("landmarks", next(seen), None),
    )


def _is_track(driving):
    return pathlib.Path(driving).suffix.lower() == ".npz"


def sheet_beside(output: str | os.PathLike) -> pathlib.Path:
    """Where `drive` puts the contact sheet of a video."""
    output = pathlib.Path(output)
    return output.with_name(f"{output.stem}_sheet.png")


def crop_track(
    track: LandmarkTrack, size: int
) -> tuple[list[geometry.Box], np.ndarray]:
    """The head box of every frame, and the landmarks inside it (gaps filled).

    Boxes stay where they are while there is no face.

    Returns:
      F boxes, and float32 [F, 68, 2] in pixels of crops of `size`.
    """
    boxes, box, last = [], None, 0.0
    inside = np.full(track.landmarks.shape, np.nan, np.float32)
    for i in np.flatnonzero(track.found):
        boxes += [box] * (i - len(boxes))
        box = geometry.follow_head(box, track.landmarks[i], track.frame_time[i] - last)
        boxes.append(box)
        inside[i] = geometry.to_crop(track.landmarks[i], box, size)
        last = track.frame_time[i]
    boxes += [box] * (len(inside) - len(boxes))
    first = next(box for box in boxes if box)
    return [box or first for box in boxes], geometry.fill_gaps(inside, track.frame_time)


def check_transfer(transfer: str) -> None:
    """Raises InputError where it is none of `TRANSFERS`."""
    if transfer not in TRANSFERS:
        names = ", ".join(TRANSFERS)
        raise InputError(f"transfer {transfer!r}: expected one of {names}", "arguments")


def adapt_landmarks(
    sources: np.ndarray, driver: np.ndarray, transfer: str
) -> np.ndarray:
    """The landmarks to draw: float32 [F, 68, 2] of the driver -> of the person.

    Args:
      sources: float [T, 68, 2], of the person's photos.
      driver: float32 [F, 68, 2], in crops of the same size.
      transfer: "relative", how the driver's expression and pose change, from those of
        a photo on; "absolute", the driver's expression and pose as they are; both on
        the shape of the person's face (`data_pipeline.face_model`). "none", the
        driver's landmarks, face shape and all, as in the paper.

    Raises:
      InputError: `transfer` is none of `TRANSFERS`.
    """
    check_transfer(transfer)
    if transfer == "none":
        return driver
    return face_model.transfer(sources, driver, relative=transfer == "relative")


def _compose(head, drawn, crops, side_by_side, sheet) -> Iterator[np.ndarray]:
    """Output frames: the result, or source | driver | result."""
    size = head.size
    scale = max(1, -(-_SMALLEST_OUTPUT // size))
    source = head.photos[0]
    with (
        contextlib.closing(read_ahead(drawn)) as results,
        contextlib.closing(read_ahead(crops)) as drivers,
    ):
        for i, (result, driver) in enumerate(zip(results, drivers)):
            sheet.see(i, source, driver, result)
            shown = [source, driver, result] if side_by_side else [result]
            row = Image.fromarray(np.concatenate(shown, 1))
            target = (row.width * scale, row.height * scale)
            yield np.asarray(row.resize(target, Image.Resampling.BICUBIC))


def _driver_crops(video, boxes, points, head, limits) -> Iterator[np.ndarray]:
    """What to show as the driver: its crop, or for a track the raster itself."""
    if video is None:
        for p in points:
            yield draw_raster(p, head.size, head.style)
        return
    for (_, frame), box in zip(read_frames(video, limits), boxes):
        yield geometry.crop(frame, box, head.size)


def _write_video(output, frames, track, audio_from, limits, on_progress):
    first = next(frames)
    height, width, _ = first.shape
    with VideoWriter(
        output,
        width,
        height,
        track.fps,
        audio_from,
        limits=limits,
        comment=provenance.comment(),
    ) as writer:
        writer.write(first, track.frame_time[0])
        for i, frame in enumerate(frames, start=1):
            writer.write(frame, track.frame_time[i])
            on_progress("frames", i + 1, len(track.frame_time))


def _write_pictures(output, frames, track, on_progress):
    shown, durations = picture_times(track.frame_time, track.fps, output.suffix)

    def pictures():
        for i, frame in enumerate(frames):
            if i in shown:
                yield Image.fromarray(frame)
            on_progress("frames", i + 1, len(track.frame_time))

    rest = pictures()
    try:
        with whole_file(output) as part:
            next(rest).save(
                part,
                save_all=True,
                append_images=rest,
                duration=durations,
                loop=0,
                **provenance.save_options(part.suffix),
            )
    except struct.error as error:  # 16 bits of hundredths
        raise InputError(
            f"{output}: a GIF shows no picture for more than 655 s; name a .webp or .mp4",
            "unsupported",
        ) from error


def picture_times(
    times: np.ndarray, fps: float, suffix: str
) -> tuple[set[int], list[int]]:
    """(frames that an animated picture shows, the ms that each of them lasts).

    WebP counts milliseconds. GIF counts hundredths of a second, and viewers take less
    than two for ten: of faster clips it shows fewer frames. Rounding does not add up.
    """
    unit, least = (10, 20) if suffix.lower() == ".gif" else (1, 1)
    starts = np.append(times, times[-1] + 1 / fps) - times[0]
    starts = np.round(starts * 1000 / unit).astype(int) * unit  # ms, and the end
    shown = [0]
    for i, start in enumerate(starts[:-1]):
        if start - starts[shown[-1]] >= least:
            shown.append(i)
    durations = np.diff(starts[[*shown, -1]])
    return set(shown), np.maximum(durations, least).tolist()


class _Sheet:
    """Collects evenly spaced moments of an animation for its contact sheet."""

    def __init__(self, num_frames: int):
        count = min(_SHEET_FRAMES, num_frames)
        self._wanted = set(np.linspace(0, num_frames - 1, count).astype(int).tolist())
        self._rows: dict[str, list[np.ndarray]] = {}

    def see(self, index, source, driver, result) -> None:
        if index in self._wanted:
            moment = {"source": source, "driver": driver, "result": result}
            for title, frame in moment.items():
                self._rows.setdefault(title, []).append(frame)

    def draw(self) -> np.ndarray:
        return contact_sheet({title: np.stack(r) for title, r in self._rows.items()})

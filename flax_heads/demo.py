"""`flax-heads demo`: the model that comes with the package, a portrait, three drivers.

Only the portrait is real: the drivers are rendered heads. They go through the same
detector, tracker and crop as any clip of a user's, and a user's clips can take their
place.
"""

from __future__ import annotations

import dataclasses
import itertools
import pathlib
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from PIL import Image

from data_pipeline import synthetic
from data_pipeline.errors import InputError
from data_pipeline.images import check_file, read_image
from data_pipeline.outputs import whole_file
from data_pipeline.people import load_person
from data_pipeline.video import read_frames
from data_pipeline.video_writer import VideoWriter
from flax_heads import provenance
from flax_heads.animate import drive, find_track, sheet_beside
from flax_heads.console import log, progress, staged_progress
from flax_heads.early_stopping import describe
from flax_heads.meta_model import fine_tune, load_model
from flax_heads.talking_head import check_output

DRIVERS = {"talk": 5, "look": 12, "expressive": 21}  # motion -> the driver's seed
_MOST_ITERATIONS = 75  # of fine-tuning: under three minutes on two slow cores
_DRIVER_FRAMES = 75
_DRIVER_SIZE = 192
_FPS = 25
_TILE = 144  # side of a face in the animated picture, pixels
_PERIOD = 0.08  # seconds between the frames that are in it
_MOST_FRAMES = 50


def run_demo(
    output: str | pathlib.Path,
    photos: Sequence[str] = (),
    driving: Sequence[str] = (),
    model: str | None = None,
) -> list[pathlib.Path]:
    """Leaves a talking head, and a video with its contact sheet for every driver.

    Beside them `personalities.webp`, all of them in one animated picture.

    Args:
      output: folder of everything that is made.
      photos: of whom to animate; by default scikit-image's public-domain portrait.
      driving: clips that drive; by default three rendered strangers, who move in three
        ways.
      model: of `load_model`; by default the one that comes with the package.

    Returns:
      the videos.

    Raises:
      InputError: a photo or a clip that cannot be used, two clips of one name, or an
        output that would take the place of a clip or of somebody's pictures.
    """
    started = time.monotonic()
    output = pathlib.Path(output)
    output.mkdir(parents=True, exist_ok=True)
    check_output(output / "head")
    photos = list(photos) or [portrait(output / "portrait.png")]
    drivers = {pathlib.Path(clip).stem: check_file(clip) for clip in driving}
    made = {(output / f"by_{name}.mp4").resolve() for name in drivers}
    if overwritten := made & {pathlib.Path(clip).resolve() for clip in driving}:
        raise InputError(
            f"{overwritten.pop()}: a video would be written over this clip; name another "
            "--output",
            reason="same_name",
        )
    if len(drivers) < len(driving):
        raise InputError(
            "two driving clips have the same name; rename one, since their videos are "
            "named after them",
            reason="same_name",
        )
    meta = _with_fewer_iterations(load_model(model))
    person = load_person(photos, meta.size)
    tracks = {}  # before all the work: a clip may show no face
    for name, clip in drivers.items():
        with staged_progress() as show_stage:
            tracks[name] = find_track(clip, on_progress=show_stage)

    log.info("1/2 learning the person in %s", ", ".join(map(str, photos)))
    with ThreadPoolExecutor(1) as aside:
        clips = {  # rendered meanwhile
            kind: aside.submit(render_driver, output / f"driver_{kind}.mp4", kind, seed)
            for kind, seed in ({} if drivers else DRIVERS).items()
        }
        with progress("fine-tuning", meta.rule().num_iterations) as show:
            head = fine_tune(
                meta,
                person.photos,
                person.landmarks,
                on_progress=lambda done, _: show(done),
            )
    log.info("%s", describe(head.history))
    head.save(output / "head")

    log.info("2/2 driving")
    drivers.update({kind: clip.result() for kind, clip in clips.items()})
    videos = []
    for name, clip in drivers.items():
        videos.append(output / f"by_{name}.mp4")
        with staged_progress() as show_stage:
            drive(
                head,
                clip,
                videos[-1],
                side_by_side=True,
                track=tracks.get(name),
                on_progress=show_stage,
            )
    sheet = output / "contact_sheet.png"
    sheets = [np.asarray(Image.open(sheet_beside(v))) for v in videos]
    with whole_file(sheet) as part:
        options = provenance.save_options(part.suffix)
        Image.fromarray(_side_by_side(sheets)).save(part, **options)
    save_animation(output / "personalities.webp", videos)

    minutes = (time.monotonic() - started) / 60
    program = pathlib.Path(sys.executable).with_name("flax-heads")
    print(
        f"Done in {minutes:.1f} minutes. Look at {output / 'personalities.webp'} and "
        f"{sheet}, and play {', '.join(map(str, videos))}.\n"
        f"Next: {program} demo --photo YOUR_PHOTO.jpg --driving YOUR_CLIP.mp4 --output "
        f"ANOTHER_FOLDER, or "
        f"{program} animate --head {output / 'head'} --driving YOUR_CLIP.mp4 "
        "--output me.mp4"
    )
    return videos


def _with_fewer_iterations(model):
    """The rule of `flax-heads finetune` learns longer, for some per cent."""
    config = model.config.copy_and_resolve_references()
    config.fine_tune.num_iterations = min(
        config.fine_tune.num_iterations, _MOST_ITERATIONS
    )
    return dataclasses.replace(model, config=config)


def portrait(path: str | pathlib.Path) -> pathlib.Path:
    """Writes the demo's photograph, an astronaut, and returns `path`.

    Raises:
      InputError: scikit-image, which ships it, is not installed; or another picture is
        there already.
    """
    try:
        from skimage import data
    except ImportError as error:
        raise InputError(
            'the demo\'s portrait needs scikit-image: pip install "flax-heads[demo]", '
            "or give --photo"
        ) from error
    path, picture = pathlib.Path(path), data.astronaut()
    if path.exists() and not np.array_equal(read_image(path), picture):
        raise InputError(
            f"{path}: is another picture; name another --output, or give it as --photo",
            "unwritable",
        )
    with whole_file(path) as part:
        Image.fromarray(picture).save(part)
    return path


def render_driver(
    path: str | pathlib.Path, kind: str, seed: int, num_frames: int = _DRIVER_FRAMES
) -> pathlib.Path:
    """Writes a clip (mp4) of a rendered stranger, and returns `path`.

    Args:
      path: the file.
      kind: how they move, one of `synthetic_motion.MOTION_KINDS`.
      seed: who they are, and their motion.
      num_frames: at 25 a second.
    """
    motion = synthetic.sample_motion(seed, num_frames, kind)
    frames, _ = synthetic.render(synthetic.sample_identity(seed), motion, _DRIVER_SIZE)
    with VideoWriter(path, _DRIVER_SIZE, _DRIVER_SIZE, _FPS) as writer:
        for frame in frames:
            writer.write(frame)
    return pathlib.Path(path)


def _side_by_side(pictures):
    """uint8 [H, W, 3] each, of any height, on white."""
    height = max(len(picture) for picture in pictures)
    padded = [
        np.pad(p, ((0, height - len(p)), (0, 0), (0, 0)), constant_values=255)
        for p in pictures
    ]
    return np.concatenate(padded, 1)


def _every(seconds: float, video: pathlib.Path) -> Iterator[np.ndarray]:
    """What is shown at every multiple of `seconds`, whatever the rate of the video."""
    count, shown = 0, None
    for time_s, frame in read_frames(video):
        while count * seconds < time_s - 1e-3:
            yield shown
            count += 1
        shown = frame
    yield shown


def save_animation(path: str | pathlib.Path, videos: Sequence[pathlib.Path]) -> None:
    """Writes a `.webp`: the source once, then for each video its driver above its result.

    Args:
      path: the file.
      videos: of source, driver and result side by side.
    """
    shown = [
        [
            np.asarray(Image.fromarray(frame).resize((3 * _TILE, _TILE)))
            for frame in itertools.islice(_every(_PERIOD, video), _MOST_FRAMES)
        ]
        for video in videos
    ]
    source = np.pad(
        shown[0][0][:, :_TILE],
        ((_TILE // 2, _TILE - _TILE // 2), (0, 0), (0, 0)),
        constant_values=255,
    )
    pictures = []
    for moment in zip(*shown):
        columns = [
            np.concatenate([row[:, _TILE : 2 * _TILE], row[:, 2 * _TILE :]])
            for row in moment
        ]
        pictures.append(Image.fromarray(np.concatenate([source, *columns], 1)))
    with whole_file(path) as part:
        pictures[0].save(
            part,
            save_all=True,
            append_images=pictures[1:],
            duration=round(1000 * _PERIOD),
            loop=0,
            quality=80,
            **provenance.save_options(part.suffix),
        )

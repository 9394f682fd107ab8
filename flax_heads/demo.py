"""`make demo`: a small model, one photograph, three drivers, three personalities.

Everything is made on the spot: the meta-training people and the drivers are rendered
heads; only the photograph is real. The drivers go through the same detector, tracker
and crop as any clip of a user's.
"""

from __future__ import annotations

import pathlib
import sys
import time

import numpy as np
from PIL import Image

from configs import synthetic as synthetic_config
from data_pipeline import synthetic
from data_pipeline.errors import InputError
from data_pipeline.people import load_person
from data_pipeline.video_writer import VideoWriter
from flax_heads.animate import drive
from flax_heads.console import log, progress, staged_progress
from flax_heads.early_stopping import describe
from flax_heads.meta_model import fine_tune, load_model
from flax_heads.train import train

_DRIVERS = {"talk": 5, "look": 12, "expressive": 21}  # motion -> the driver's seed
_DRIVER_FRAMES = 75
_DRIVER_SIZE = 192
_FPS = 25


def run_demo(
    output: str | pathlib.Path, photo: str | None = None, steps: int | None = None
) -> list[pathlib.Path]:
    """Leaves three mp4s with their contact sheets, and the model and head to go on with.

    Args:
      output: folder of everything that is made; run again, it resumes the training.
      photo: whom to animate; by default scikit-image's public-domain portrait.
      steps: of meta-training; the recipe's by default.

    Returns:
      the three videos.
    """
    started = time.monotonic()
    output = pathlib.Path(output)
    output.mkdir(parents=True, exist_ok=True)
    photo = photo or _portrait(output / "portrait.png")
    config = synthetic_config.get_config("demo")
    if steps:
        config.num_train_steps = steps
    person = load_person([photo], config.size)

    log.info("1/3 meta-training a small model on rendered heads")
    train(config, output / "model")

    log.info("2/3 learning the person in %s", photo)
    model = load_model(output / "model")
    with progress("fine-tuning", config.fine_tune.num_iterations) as show:
        head = fine_tune(
            model,
            person.photos,
            person.landmarks,
            on_progress=lambda done, _: show(done),
        )
    log.info("%s", describe(head.history))
    head.save(output / "head")

    log.info("3/3 three drivers, three personalities")
    videos = []
    for kind, seed in _DRIVERS.items():
        driver = output / f"driver_{kind}.mp4"
        _render_driver(driver, kind, seed)
        video = output / f"{kind}.mp4"
        with staged_progress() as show_stage:
            drive(head, driver, video, side_by_side=True, on_progress=show_stage)
        videos.append(video)
    sheet = output / "contact_sheet.png"
    sheets = [np.asarray(Image.open(v.with_suffix(".png"))) for v in videos]
    Image.fromarray(np.concatenate(sheets, 1)).save(sheet)

    minutes = (time.monotonic() - started) / 60
    print(
        f"Done in {minutes:.1f} minutes. Look at {sheet} and play "
        f"{', '.join(str(v) for v in videos)}.\n"
        f"Next: {pathlib.Path(sys.executable).with_name('flax-heads')} finetune --model "
        f"{output / 'model'} --photos YOUR_PHOTO.jpg --output my_head, then animate it "
        "with any clip (README, Use)."
    )
    return videos


def _portrait(path: pathlib.Path) -> pathlib.Path:
    try:
        from skimage import data
    except ImportError as error:
        raise InputError(
            'the demo\'s portrait needs scikit-image: pip install "flax-heads[demo]", '
            "or give --photo"
        ) from error
    Image.fromarray(data.astronaut()).save(path)
    return path


def _render_driver(path, kind, seed):
    """A clip of a rendered stranger who moves in one of three ways."""
    motion = synthetic.sample_motion(seed, _DRIVER_FRAMES, kind)
    frames, _ = synthetic.render(synthetic.sample_identity(seed), motion, _DRIVER_SIZE)
    with VideoWriter(path, _DRIVER_SIZE, _DRIVER_SIZE, _FPS) as writer:
        for frame in frames:
            writer.write(frame)

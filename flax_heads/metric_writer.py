"""Metrics to `metrics.jsonl` (always) and to TensorBoard event files, and their names."""

from __future__ import annotations

import json
import math
import os
import pathlib
import time

import numpy as np
from PIL import Image
from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog

from data_pipeline.outputs import whole_file

# Every metric of a training run. A step's own are those of the step that is logged.
METRICS = {
    "loss/content": "L_CNT, weighted, with the pixel pyramid",
    "loss/adversarial": "L_ADV without feature matching, weighted",
    "loss/feature_matching": "L_FM, weighted",
    "loss/match": "L_MCH, weighted",
    "loss/discriminator": "L_DSC of the last of the step's updates of V",
    "l1": "mean |x-hat - x| of frames in [0, 1]",
    "held_out/l1": "l1, feed-forward by the averaged weights, of people never trained on",
    "score/real": "mean score of real frames",
    "score/fake": "mean score of generated frames",
    # The game is over: V tells all frames apart, and its hinge teaches nobody anything.
    "score/real_saturated": "share of real frames with a score above 1",
    "score/fake_saturated": "share of generated frames with a score below -1",
    # The generator has collapsed: one frame for all rasters, or frames of one colour.
    "fake/std_over_batch": "standard deviation of x-hat in [-1, 1] between episodes",
    "fake/std_over_space": "standard deviation of x-hat in [-1, 1] within a frame",
    # L_MCH drifts: the embedder and W shrink, grow or turn away from each other.
    "norm/embedding": "mean length of e-hat",
    "norm/video_embedding": "mean length of the batch's rows of W",
    "match/cosine": "mean cosine between e-hat and W_i",
    "norm/generator_gradient": "global norm of the gradient of phi, psi and P",
    "norm/discriminator_gradient": "global norm of the gradient of theta",
    "skipped": "1 if the step was skipped because it was not finite",
    "skipped_steps": "steps skipped since the line before",
    "steps_per_second": "since the line before",
}


class MetricWriter:
    """Writes scalars and pictures of one run.

    A run that starts again at an earlier step takes back what it wrote after it, so
    that `metrics.jsonl` reads as if the run had never stopped. Writing is done at once
    and in the caller's thread: a full disk is an OSError here, not a queue that fills.
    """

    def __init__(self, workdir: str | pathlib.Path, first_step: int, active=True):
        """`active` is False in all processes but one: they write nothing."""
        self._active = active
        self._folder = pathlib.Path(workdir)
        if not active:
            return
        path = self._folder / "metrics.jsonl"
        _forget_after(path, first_step)
        self._lines = path.open("a")
        board = self._folder / "tensorboard"
        board.mkdir(exist_ok=True)
        self._board = EventsWriter(str(board / "events"), f".{os.getpid()}")
        self._event(first_step + 1, session_log=SessionLog(status=SessionLog.START))

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """Writes finite values as they are, others as null."""
        if not self._active:
            return
        known = {k: v if math.isfinite(v) else None for k, v in values.items()}
        self._lines.write(json.dumps({"step": step, **known}) + "\n")
        self._lines.flush()
        for name, value in known.items():
            if value is not None:
                self._event(step, summary=summary.scalar(name, value))
        self._board.flush()

    def image(self, step: int, name: str, image: np.ndarray) -> pathlib.Path:
        """Writes uint8 [H, W, 3] as `<name>_<step>.png` and to TensorBoard."""
        path = self._folder / f"{name}_{step:07d}.png"
        if self._active:
            Image.fromarray(image).save(path)
            self._event(step, summary=summary.image(name, image, dataformats="HWC"))
        return path

    def close(self) -> None:
        if self._active:
            self._lines.close()
            self._board.close()

    def _event(self, step, **content):
        self._board.write_event(Event(step=step, wall_time=time.time(), **content))


def _forget_after(path: pathlib.Path, step: int) -> None:
    """Keeps the whole lines of steps up to `step`; the file is never half there."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text(errors="replace").splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
        except (ValueError, KeyError, TypeError):
            continue  # cut off by a kill or a full disk
    with whole_file(path) as part:
        part.write_text("".join(kept))

"""Metrics to `metrics.jsonl` (always) and to TensorBoard event files."""

from __future__ import annotations

import json
import pathlib

import numpy as np
from PIL import Image
from tensorboardX import SummaryWriter


class MetricWriter:
    """Writes scalars and pictures of one run; appends when the run is resumed."""

    def __init__(self, workdir: str | pathlib.Path):
        self._folder = pathlib.Path(workdir)
        self._lines = (self._folder / "metrics.jsonl").open("a")
        self._board = SummaryWriter(str(self._folder / "tensorboard"))

    def scalars(self, step: int, values: dict[str, float]) -> None:
        self._lines.write(json.dumps({"step": step, **values}) + "\n")
        self._lines.flush()
        for name, value in values.items():
            self._board.add_scalar(name, value, step)

    def image(self, step: int, name: str, image: np.ndarray) -> pathlib.Path:
        """Writes uint8 [H, W, 3] as `<name>_<step>.png` and to TensorBoard."""
        path = self._folder / f"{name}_{step:07d}.png"
        Image.fromarray(image).save(path)
        self._board.add_image(name, image, step, dataformats="HWC")
        return path

    def close(self) -> None:
        self._lines.close()
        self._board.close()

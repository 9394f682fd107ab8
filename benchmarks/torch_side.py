"""What the benchmarks share on PyTorch's side: plain modules, eager or compiled."""

from __future__ import annotations

import functools
import importlib.util
import sys
from typing import Any

import numpy as np

NAMES = {"eager": "torch eager", "compile": "torch.compile"}


def load_torch():
    """The module, or the end of the process with a word on how to get it."""
    if importlib.util.find_spec("torch") is None:
        sys.exit('no torch here: pip install -e ".[torch]", or name --torch-python')
    import torch

    return torch


def device() -> str:
    return "cuda" if load_torch().cuda.is_available() else "cpu"


def build(config) -> Any:
    """A config's networks with random weights, channels last, in evaluation mode."""
    torch = load_torch()
    from tests import torch_models

    model = config.model
    networks = torch_models.Networks(
        model.embedder.to_dict(),
        model.generator.to_dict(),
        model.discriminator.to_dict(),
    )
    return networks.to(device(), memory_format=torch.channels_last).eval()


def compiled(networks: Any, names: tuple[str, ...]) -> None:
    """Puts `torch.compile` around some of the networks."""
    for name in names:
        setattr(networks, name, load_torch().compile(getattr(networks, name)))


def adam(parameters: Any, learning_rate: float) -> Any:
    make = functools.partial(load_torch().optim.Adam, betas=(0.0, 0.999), eps=1e-5)
    return make(parameters, lr=learning_rate)


def to_device(array: np.ndarray) -> Any:
    return load_torch().from_numpy(array).to(device())


def to_images(array: Any) -> Any:
    """uint8 [..., H, W, 3] -> float32 [..., 3, H, W] in [-1, 1], channels last."""
    return array.float().div(127.5).sub(1).movedim(-1, -3)


def autocast(dtype: str) -> Any:
    torch = load_torch()
    return torch.autocast(device(), getattr(torch, dtype), enabled=dtype != "float32")


def finish() -> None:
    """Waits for the accelerator."""
    torch = load_torch()
    if torch.cuda.is_available():
        torch.cuda.synchronize()

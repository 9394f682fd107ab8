"""Comparisons with PyTorch: flags, processes, and plain modules, eager or compiled."""

from __future__ import annotations

import argparse
import functools
import importlib.util
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

_NAMES = {"eager": "torch eager", "compile": "torch.compile"}


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Those that `candidates` and `serves` read."""
    parser.add_argument("--torch-python", default=sys.executable)
    parser.add_argument(
        "--torch",
        nargs="*",
        default=list(_NAMES),
        choices=list(_NAMES),
        help="which of PyTorch's ways; none after it: ours alone",
    )
    parser.add_argument("--serve", help=argparse.SUPPRESS)


def candidates(
    flags: argparse.Namespace, module: str, ours: dict[str, str]
) -> dict[str, list[str]]:
    """Commands for `in_turn.compare`: this program again, with `--serve` added.

    Args:
      flags: parsed, of this program.
      module: its name, as `python -m` takes it.
      ours: name -> what `--serve` is to say, of the candidates in JAX.
    """

    def command(python, served):
        return [python, "-m", module, *sys.argv[1:], f"--serve={served}"]

    return {
        **{name: command(sys.executable, served) for name, served in ours.items()},
        **{_NAMES[way]: command(flags.torch_python, way) for way in flags.torch},
    }


def serves(
    flags: argparse.Namespace,
    serve_jax: Callable[[argparse.Namespace], None],
    serve_torch: Callable[[argparse.Namespace], None],
) -> bool:
    """Whether this process was a candidate, which has been served."""
    if flags.serve:
        (serve_torch if flags.serve in _NAMES else serve_jax)(flags)
    return bool(flags.serve)


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

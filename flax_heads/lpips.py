"""LPIPS v0.1 (Zhang et al. 2018) with AlexNet, as pure JAX functions.

It measures how far apart two pictures look, with weights that the user has.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from flax_heads.weight_files import read_expected

BACKBONE_FILE = "alexnet-owt-7be5be79.pth of torchvision"
LINEAR_FILE = "weights/v0.1/alex.pth of the lpips package"

_SHIFT = (-0.030, -0.088, -0.188)  # of pictures in [-1, 1]
_SCALE = (0.458, 0.448, 0.450)
# torchvision's number in `features`, side, channels in, out, stride, padding
_CONVOLUTIONS = (
    (0, 11, 3, 64, 4, 2),
    (3, 5, 64, 192, 1, 2),
    (6, 3, 192, 384, 1, 1),
    (8, 3, 384, 256, 1, 1),
    (10, 3, 256, 256, 1, 1),
)
_HALVED_BEFORE = (3, 6)
SMALLEST = 31  # pictures of fewer pixels leave nothing for the last layers


def load_lpips(
    backbone_path: str | os.PathLike, linear_path: str | os.PathLike
) -> dict[str, jax.Array]:
    """Reads AlexNet and the linear weights from files that `weight_files` can read.

    Args:
      backbone_path: torchvision's AlexNet (`BACKBONE_FILE`).
      linear_path: how much each channel counts (`LINEAR_FILE`).

    Returns:
      `conv<i>/kernel` [h, w, in, out], `conv<i>/bias` [out] and `linear<i>` [out] of
      the five layers, i = 0 ... 4; float32.

    Raises:
      InputError: an unreadable file, or one whose tensors are not these networks'; the
        message names the first wrong one.
    """
    backbone_shapes, linear_shapes = {}, {}
    for i, (number, side, c_in, c_out, *_) in enumerate(_CONVOLUTIONS):
        backbone_shapes[f"features.{number}.weight"] = (c_out, c_in, side, side)
        backbone_shapes[f"features.{number}.bias"] = (c_out,)
        linear_shapes[f"lin{i}.model.1.weight"] = (1, c_out, 1, 1)
    backbone = read_expected(backbone_path, backbone_shapes, BACKBONE_FILE)
    linear = read_expected(linear_path, linear_shapes, LINEAR_FILE)
    variables = {}
    for i, (number, *_) in enumerate(_CONVOLUTIONS):
        kernel = backbone[f"features.{number}.weight"].transpose(2, 3, 1, 0)
        variables[f"conv{i}/kernel"] = kernel
        variables[f"conv{i}/bias"] = backbone[f"features.{number}.bias"]
        variables[f"linear{i}"] = linear[f"lin{i}.model.1.weight"].reshape(-1)
    return jax.tree.map(jnp.asarray, variables)


@jax.jit
def lpips(variables: Mapping, a: jax.Array, b: jax.Array) -> jax.Array:
    """Distance of each pair of pictures; 0 for the same two.

    Pictures are compared at the size they come in. State it: distances at different
    sizes do not compare (the metric was calibrated on 64 x 64).

    Args:
      variables: from `load_lpips`.
      a, b: uint8 [F, H, W, 3], or float in [-1, 1]; H and W at least 31.

    Returns:
      float32 [F].

    Raises:
      ValueError: the pictures are too small or not of the same shape.
    """
    if a.shape != b.shape or min(a.shape[1:3]) < SMALLEST:
        raise ValueError(
            f"pictures must have the same shape and at least {SMALLEST} x {SMALLEST} "
            f"pixels, got {a.shape} and {b.shape}"
        )
    distance = jnp.zeros(len(a))
    for i, (x, y) in enumerate(zip(_features(variables, a), _features(variables, b))):
        weighted = jnp.square(x - y) * variables[f"linear{i}"]  # [F, h, w, C]
        distance += weighted.sum(-1).mean((1, 2))
    return distance


def _features(variables: Mapping, frames: jax.Array) -> list[jax.Array]:
    """Five maps [F, h, w, C] after the ReLU, every pixel scaled to length 1."""
    if frames.dtype == jnp.uint8:
        frames = frames / np.float32(127.5) - 1
    x = (frames - np.float32(_SHIFT)) / np.float32(_SCALE)
    maps = []
    for i, (number, *_, stride, padding) in enumerate(_CONVOLUTIONS):
        if number in _HALVED_BEFORE:
            x = nn.max_pool(x, (3, 3), (2, 2))
        x = jax.lax.conv_general_dilated(
            x,
            variables[f"conv{i}/kernel"],
            (stride, stride),
            [(padding, padding)] * 2,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            precision="highest",  # no TF32: a score must not depend on the machine
        )
        x = jax.nn.relu(x + variables[f"conv{i}/bias"])
        length = jnp.sqrt(jnp.square(x).sum(-1, keepdims=True))
        maps.append(x / (length + 1e-10))
    return maps

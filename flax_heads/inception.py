"""The InceptionV3 of FID as pure JAX functions, with weights the user has.

It is pytorch-fid's port of TensorFlow's network of 2015-12-05: torchvision's layers,
but average pools that leave the border out and a maximum in the last block.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from flax_heads.weight_files import read_expected

WEIGHTS_FILE = "pt_inception-2015-12-05-6726825d.pth of pytorch-fid"
_SIZE = 299
_EPSILON = 1e-3  # of the batch normalisation


def _average(x: jax.Array) -> jax.Array:
    return nn.avg_pool(x, (3, 3), (1, 1), "SAME", count_include_pad=False)


def _maximum(x: jax.Array) -> jax.Array:
    return nn.max_pool(x, (3, 3), (1, 1), "SAME")


def _halve(x: jax.Array) -> jax.Array:
    return nn.max_pool(x, (3, 3), (2, 2))


# A convolution is (channels, height, width), then its stride and padding if they are
# not 1 and "SAME". A block is its branches, whose ends are concatenated; a branch is a
# chain of pools and convolutions; a list in it is a fork, concatenated as well.
def _block_a(pooled: int) -> dict:
    return {
        "branch1x1": ((64, 1, 1),),
        "branch5x5": ((48, 1, 1), (64, 5, 5)),
        "branch3x3dbl": ((64, 1, 1), (96, 3, 3), (96, 3, 3)),
        "branch_pool": (_average, (pooled, 1, 1)),
    }


def _block_c(c: int) -> dict:
    return {
        "branch1x1": ((192, 1, 1),),
        "branch7x7": ((c, 1, 1), (c, 1, 7), (192, 7, 1)),
        "branch7x7dbl": ((c, 1, 1), (c, 7, 1), (c, 1, 7), (c, 7, 1), (192, 1, 7)),
        "branch_pool": (_average, (192, 1, 1)),
    }


def _block_e(pool: Callable) -> dict:
    fork = [(384, 1, 3), (384, 3, 1)]
    return {
        "branch1x1": ((320, 1, 1),),
        "branch3x3": ((384, 1, 1), fork),
        "branch3x3dbl": ((448, 1, 1), (384, 3, 3), fork),
        "branch_pool": (pool, (192, 1, 1)),
    }


_NETWORK = {  # from the picture [299, 299, 3] upwards
    "Conv2d_1a_3x3": (32, 3, 3, 2, "VALID"),
    "Conv2d_2a_3x3": (32, 3, 3, 1, "VALID"),
    "Conv2d_2b_3x3": (64, 3, 3),
    "maxpool1": _halve,  # [73, 73, 64]
    "Conv2d_3b_1x1": (80, 1, 1),
    "Conv2d_4a_3x3": (192, 3, 3, 1, "VALID"),
    "maxpool2": _halve,  # [35, 35, 192]
    "Mixed_5b": _block_a(32),
    "Mixed_5c": _block_a(64),
    "Mixed_5d": _block_a(64),
    "Mixed_6a": {  # [17, 17, 768]
        "branch3x3": ((384, 3, 3, 2, "VALID"),),
        "branch3x3dbl": ((64, 1, 1), (96, 3, 3), (96, 3, 3, 2, "VALID")),
        "branch_pool": (_halve,),
    },
    "Mixed_6b": _block_c(128),
    "Mixed_6c": _block_c(160),
    "Mixed_6d": _block_c(160),
    "Mixed_6e": _block_c(192),
    "Mixed_7a": {  # [8, 8, 1280]
        "branch3x3": ((192, 1, 1), (320, 3, 3, 2, "VALID")),
        "branch7x7x3": (
            (192, 1, 1),
            (192, 1, 7),
            (192, 7, 1),
            (192, 3, 3, 2, "VALID"),
        ),
        "branch_pool": (_halve,),
    },
    "Mixed_7b": _block_e(_average),
    "Mixed_7c": _block_e(_maximum),  # odd, but so is the network of 2015
}  # [8, 8, 2048]


def load_inception(path: str | os.PathLike) -> dict[str, jax.Array]:
    """Reads pytorch-fid's weights from a file that `weight_files` can read.

    Returns:
      `<layer>/kernel` [h, w, in, out] and `<layer>/bias` [out] of the 94 convolutions,
      batch normalisation folded in; float32.

    Raises:
      InputError: an unreadable file, or one whose tensors are not this network's; the
        message names the first wrong one.
    """
    layers = _kernel_shapes()
    # Not used, but by its 1008 classes it is not torchvision's own InceptionV3.
    shapes = {"fc.weight": (1008, 2048)}
    for layer, (h, w, c_in, c_out) in layers.items():
        shapes[f"{layer}.conv.weight"] = (c_out, c_in, h, w)
        for name in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{layer}.bn.{name}"] = (c_out,)
    tensors = read_expected(path, shapes, WEIGHTS_FILE)
    variables = {}
    for layer in layers:
        scale, shift, mean, variance = (
            tensors[f"{layer}.bn.{name}"]
            for name in ("weight", "bias", "running_mean", "running_var")
        )
        scale = scale / np.sqrt(variance + np.float32(_EPSILON))
        kernel = tensors[f"{layer}.conv.weight"].transpose(2, 3, 1, 0)
        variables[f"{layer}/kernel"] = kernel * scale
        variables[f"{layer}/bias"] = shift - mean * scale
    return jax.tree.map(jnp.asarray, variables)


@jax.jit
def inception_features(variables: Mapping, frames: jax.Array) -> jax.Array:
    """What FID compares: the mean of the last map, before the classes.

    Frames are resized to 299 x 299 as pytorch-fid does: bilinear, not antialiased. To
    compare with others, give frames of the size that they gave.

    Args:
      variables: from `load_inception`.
      frames: uint8 [B, H, W, 3], or float in [-1, 1].

    Returns:
      float32 [B, 2048], >= 0.
    """

    def convolve(layer, x, channels, height, width, stride=1, padding="SAME"):
        kernel, bias = variables[f"{layer}/kernel"], variables[f"{layer}/bias"]
        return _convolve(x, kernel, bias, stride, padding)

    return _run(_resize(frames), convolve).mean((1, 2))


def _resize(frames: jax.Array) -> jax.Array:
    """uint8 or [-1, 1] frames [B, H, W, 3] -> float32 [B, 299, 299, 3] in [-1, 1]."""
    if frames.dtype == jnp.uint8:
        frames = frames / np.float32(127.5) - 1
    shape = (len(frames), _SIZE, _SIZE, 3)
    return jax.image.resize(frames, shape, "linear", antialias=False)


def _run(x: jax.Array, convolve: Callable) -> jax.Array:
    """The network on [B, 299, 299, 3]; `convolve(layer, x, *convolution)`."""
    for name, step in _NETWORK.items():
        if isinstance(step, dict):
            ends = [_branch(f"{name}.{b}", s, x, convolve) for b, s in step.items()]
            x = jnp.concatenate(ends, -1)
        else:
            x = step(x) if callable(step) else convolve(name, x, *step)
    return x


def _branch(name: str, steps: tuple, x: jax.Array, convolve: Callable) -> jax.Array:
    """One branch; its convolutions are numbered from 1, a single one is not."""
    single = sum(not callable(step) for step in steps) == 1
    for i, step in enumerate(steps, start=1):
        if callable(step):
            x = step(x)
        elif isinstance(step, list):
            ends = [convolve(f"{name}_{i}{e}", x, *s) for e, s in zip("ab", step)]
            x = jnp.concatenate(ends, -1)
        else:
            x = convolve(name if single else f"{name}_{i}", x, *step)
    return x


def _convolve(x, kernel, bias, stride, padding):
    x = jax.lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision="highest",  # no TF32: a score must not depend on the machine
    )
    return jax.nn.relu(x + bias)


def _kernel_shapes() -> dict[str, tuple[int, int, int, int]]:
    """(h, w, in, out) of every convolution, from the picture upwards."""
    shapes = {}

    def convolve(layer, x, channels, height, width, stride=1, padding="SAME"):
        shapes[layer] = shape = (height, width, x.shape[-1], channels)
        return _convolve(x, jnp.zeros(shape), jnp.zeros(channels), stride, padding)

    picture = jax.ShapeDtypeStruct((1, _SIZE, _SIZE, 3), jnp.float32)
    jax.eval_shape(lambda x: _run(x, convolve), picture)
    return shapes

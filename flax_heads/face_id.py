"""dlib's face-recognition network as pure JAX functions.

It measures identity (`descriptor`) and is a perceptual network that needs nobody's
VGGFace weights (`as_perceptual`). A chip is float32 [150, 150, 3] RGB in [0, 255],
aligned as dlib aligns it.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import math
import os
import pathlib
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from data_pipeline.errors import InputError

CHIP_SIZE = 150
PADDING = 0.25  # margin around the mean face, as a fraction of its size
CHIP_FRACTION = 0.7  # side of a chip in a VoxCeleb2 frame (median of 49 clips)

WEIGHTS_FILE = "dlib_face_recognition_resnet_model_v1.dat"
_BYTES = 22_466_066
_SHA256 = "55533b28a95800a551ba546ba62fe69625c7e95a7061c338adffead08719da30"

# Residual stages after the stem: (channels, blocks). All but the first halve the map.
_STAGES = ((32, 3), (64, 4), (128, 3), (256, 3), (256, 1))
_MEAN_RGB = (122.782, 117.001, 104.298)

# The landmarks dlib aligns (no jaw, no eyebrows, no lower lip), and where they lie in
# its mean face, a square of side 1.
_ALIGNED = np.array([*range(27, 55), *range(60, 65)])
# fmt: off
_MEAN_FACE = np.array([
    [.490127, .203352], [.490127, .307009], [.490127, .409805], [.490127, .515625],
    [.366880, .587326], [.426036, .609345], [.490127, .628106], [.554217, .609345],
    [.613373, .587326], [.121737, .216423], [.187122, .178758], [.265825, .179852],
    [.334606, .231733], [.260918, .245099], [.182743, .244077], [.645647, .231733],
    [.714428, .179852], [.793132, .178758], [.858516, .216423], [.797510, .244077],
    [.719335, .245099], [.254149, .780233], [.340985, .745405], [.428858, .727388],
    [.490127, .742578], [.551395, .727388], [.639268, .745405], [.726104, .780233],
    [.290379, .784792], [.428096, .778746], [.490127, .785343], [.552157, .778746],
    [.689874, .784792],
])
# fmt: on


def load_weights(path: str | os.PathLike | None = None) -> dict[str, np.ndarray]:
    """Reads dlib's file of weights; None finds it in `face_recognition_models`.

    Only one was ever published; its checksum keeps all others away from the parser.

    Returns:
      `conv<i>/kernel` [h, w, in, out] and `conv<i>/bias` [out] of the 29 convolutions,
      dlib's affine layers folded in, and `descriptor/kernel` [256, 128]; float32.

    Raises:
      InputError: the file is missing, unreadable, cut short or another one.
    """
    path = _package_file() if path is None else pathlib.Path(path)
    problem = None
    try:
        with open(path, "rb") as file:
            content = file.read(_BYTES + 1)
        if len(content) != _BYTES:
            problem = f"it is not {_BYTES:,} bytes long, as {WEIGHTS_FILE} is"
        elif hashlib.sha256(content).hexdigest() != _SHA256:
            problem = f"its checksum is not that of {WEIGHTS_FILE}"
    except OSError as error:
        problem = f"cannot be read ({error.strerror})"
    if problem:
        raise InputError(
            f"{path}: {problem}; get it from dlib.net/files, or "
            "pip install --force-reinstall --no-deps face_recognition_models",
            "bad_weights",
        )
    return _parse(content)


def face_features(weights: Mapping, chips: jax.Array) -> list[jax.Array]:
    """Activations for chips [B, 150, 150, 3] in [0, 255]: six maps, all >= 0.

    72x72x32 (the stem, before its pooling), then one after each residual stage:
    35x35x32, 17x17x64, 8x8x128, 4x4x256 and 2x2x256.
    """
    if chips.shape[1:] != (CHIP_SIZE, CHIP_SIZE, 3):
        raise ValueError(f"chips must be [B, 150, 150, 3], got {chips.shape}")
    x = (chips - jnp.asarray(_MEAN_RGB, jnp.float32)) / 256
    x = jax.nn.relu(_convolve(weights, 0, x, stride=2))
    maps = [x]
    x = _max_pool(_max_pool(x, axis=1), axis=2)
    i = 1
    for stage, (_, blocks) in enumerate(_STAGES):
        for block in range(blocks):
            stride = 2 if stage > 0 and block == 0 else 1
            y = jax.nn.relu(_convolve(weights, i, x, stride))
            y = _convolve(weights, i + 1, y)
            shortcut = nn.avg_pool(x, (2, 2), (2, 2)) if stride == 2 else x
            x = jax.nn.relu(_add(shortcut, y))
            i += 2
        maps.append(x)
    return maps


def descriptor(weights: Mapping, chips: jax.Array) -> jax.Array:
    """Identity of each face: chips [B, 150, 150, 3] in [0, 255] -> [B, 128].

    Not of length 1; one person's photos lie within a Euclidean distance of 0.6.
    """
    return face_features(weights, chips)[-1].mean((1, 2)) @ weights["descriptor/kernel"]


def as_perceptual(
    weights: Mapping, chip_fraction: float = CHIP_FRACTION
) -> tuple[Callable[[Mapping, jax.Array], list[jax.Array]], dict[str, jax.Array]]:
    """A perceptual network `(apply, variables)` that needs no landmarks.

    `apply(variables, frames)` takes frames [B, H, W, 3] in [-1, 1] of any size, cuts
    out the central square of `chip_fraction` of the shorter side, resizes it to a
    chip, antialiased, and returns its `face_features`.
    """
    if not 0 < chip_fraction <= 1:
        raise ValueError(f"chip_fraction must be in (0, 1], got {chip_fraction}")

    def apply(variables: Mapping, frames: jax.Array) -> list[jax.Array]:
        b, h, w, c = frames.shape
        side = max(1, round(chip_fraction * min(h, w)))
        top, left = (h - side) // 2, (w - side) // 2
        square = frames[:, top : top + side, left : left + side]
        chips = jax.image.resize(square, (b, CHIP_SIZE, CHIP_SIZE, c), "linear")
        return face_features(variables, (chips + 1) * 127.5)

    return apply, jax.tree.map(jnp.asarray, dict(weights))


def chips_from_frames(frames: jax.Array, landmarks: jax.Array) -> jax.Array:
    """Aligned faces, differentiable in the frames (and in the landmarks).

    What `dlib.get_face_chip(padding=0.25)` does: the similarity that takes the mean
    face to the landmarks by least squares, bilinear samples, black outside the frame,
    and frames halved by a pyramid where a face is too large for that. Unlike dlib's,
    landmarks need not be whole pixels and values are not cut off to whole numbers.

    Args:
      frames: float [B, H, W, 3] in [0, 255].
      landmarks: float [B, 68, 2], (x, y) pixels; (0, 0) is the first pixel's centre.

    Returns:
      Chips, float [B, 150, 150, 3] in [0, 255].
    """
    if landmarks.shape != (frames.shape[0], 68, 2):
        raise ValueError(f"landmarks {landmarks.shape} do not fit {frames.shape}")
    points, step = _chip_grid(landmarks)  # [B, 150, 150, 2], [B]
    chips = _sample(frames, points)
    level = 0
    while min(frames.shape[1:3]) > 2 * CHIP_SIZE:  # smaller ones hold no such face
        level += 1
        frames = _halve(frames)
        # dlib's pyramid is off by half a pixel a level; the network learned from it.
        lag = (1 - 0.5**level) * np.array([-0.5, 0.5], np.float32)
        chosen = (step > 2**level)[:, None, None, None]
        chips = jnp.where(chosen, _sample(frames, points / 2**level + lag), chips)
    return chips


def _chip_grid(landmarks: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Where chip pixels lie in the frame [B, 150, 150, 2], and their distance [B]."""
    mean_face = CHIP_SIZE * (PADDING + _MEAN_FACE) / (1 + 2 * PADDING)
    centroid = mean_face.mean(0)
    source = jnp.asarray(mean_face - centroid, jnp.float32)  # [33, 2]
    target = landmarks[:, _ALIGNED].astype(jnp.float32)
    middle = target.mean(1, keepdims=True)  # [B, 1, 2]
    target = target - middle
    # The least-squares similarity is one complex factor, u + iv.
    u = (source * target).sum((1, 2)) / (source**2).sum()
    turned = jnp.stack([-source[:, 1], source[:, 0]], -1)
    v = (turned * target).sum((1, 2)) / (source**2).sum()
    scale = jnp.sqrt(u * u + v * v + 1e-12)  # frame pixels per mean-face pixel
    # dlib centres the chip at 75, and the first and the last chip pixel on the first
    # and the last of the 150 * scale frame pixels.
    step = (CHIP_SIZE * scale - 1) / (CHIP_SIZE - 1)
    axis = np.arange(CHIP_SIZE, dtype=np.float32) - (CHIP_SIZE - 1) / 2
    reach = (step / scale)[:, None, None] * axis  # [B, 1, 150]
    x = reach + (CHIP_SIZE / 2 - centroid[0])
    y = reach.mT + (CHIP_SIZE / 2 - centroid[1])
    cos, sin = u[:, None, None], v[:, None, None]
    points = jnp.stack([cos * x - sin * y, sin * x + cos * y], -1)
    return points + middle[:, None], step


def _sample(images: jax.Array, points: jax.Array) -> jax.Array:
    """Bilinear samples of [B, H, W, 3] at (x, y) [B, h, w, 2]; 0 outside."""
    b, h, w, _ = images.shape
    x, y = points[..., 0], points[..., 1]
    inside = (x >= 0) & (y >= 0) & (x <= w - 1) & (y <= h - 1)
    left = jnp.clip(jnp.floor(x), 0, max(w - 2, 0)).astype(jnp.int32)
    top = jnp.clip(jnp.floor(y), 0, max(h - 2, 0)).astype(jnp.int32)
    fx, fy = (x - left)[..., None], (y - top)[..., None]
    rows = jnp.arange(b)[:, None, None]
    upper = (1 - fx) * images[rows, top, left] + fx * images[rows, top, left + 1]
    top = top + 1
    lower = (1 - fx) * images[rows, top, left] + fx * images[rows, top, left + 1]
    return jnp.where(inside[..., None], (1 - fy) * upper + fy * lower, 0)


def _halve(images: jax.Array) -> jax.Array:
    """Binomial 5x5 blur, then every second pixel: pixel i lies at 2i of before."""
    for axis in (1, 2):
        size = images.shape[axis]
        padded = jnp.pad(images, [(2 * (a == axis),) * 2 for a in range(4)], "edge")
        images = sum(
            weight / 16 * jax.lax.slice_in_dim(padded, i, i + size, 2, axis)
            for i, weight in enumerate((1, 4, 6, 4, 1))
        )
    return images


def _max_pool(x: jax.Array, axis: int) -> jax.Array:
    """3 wide, stride 2, one axis. As slices its gradient is 10x faster on a CPU."""
    last = x.shape[axis] - 3
    windows = (jax.lax.slice_in_dim(x, i, last + i + 1, 2, axis=axis) for i in range(3))
    return functools.reduce(jnp.maximum, windows)


def _convolve(weights: Mapping, index: int, x: jax.Array, stride: int = 1) -> jax.Array:
    padding = [(2 - stride, 2 - stride)] * 2  # dlib pads only where it does not stride
    return weights[f"conv{index}/bias"] + jax.lax.conv_general_dilated(
        x,
        weights[f"conv{index}/kernel"],
        (stride, stride),
        padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def _add(x: jax.Array, y: jax.Array) -> jax.Array:
    """Sum of two maps; the smaller one is zero-padded at the end of each axis."""
    shape = np.maximum(x.shape, y.shape)
    return sum(jnp.pad(a, [(0, n - m) for m, n in zip(a.shape, shape)]) for a in (x, y))


def _package_file() -> pathlib.Path:
    # Not imported: its __init__ needs pkg_resources, which new setuptools lacks.
    spec = importlib.util.find_spec("face_recognition_models")
    for folder in (spec and spec.submodule_search_locations) or ():
        path = pathlib.Path(folder, "models", WEIGHTS_FILE)
        if path.is_file():
            return path
    raise InputError(
        f'{WEIGHTS_FILE}: not found; pip install "flax-heads[data]" brings it',
        "missing_weights",
    )


def _parse(content: bytes) -> dict[str, np.ndarray]:
    """Finds the arrays in the file, which has the layers from the image upwards.

    Each is announced by its layer's name, settings, and `2` (a version) with four
    sizes. An integer is its number of bytes in one byte, then those bytes.
    """
    at = 0

    def array(layer: str, *sizes: int) -> np.ndarray:
        nonlocal at
        numbers = (2, *sizes, *[1] * (4 - len(sizes)))
        header = b""
        for n in numbers:
            length = (n.bit_length() + 7) // 8
            header += bytes([length]) + n.to_bytes(length, "little")
        at = content.index(header, content.index(layer.encode(), at)) + len(header)
        values = np.frombuffer(content, "<f4", math.prod(sizes), at)
        at += values.nbytes
        return values.astype(np.float64)

    shapes = [(32, 3, 7)]  # (out, in, size) of each convolution
    for channels, blocks in _STAGES:
        shapes.append((channels, shapes[-1][0], 3))
        shapes.extend([(channels, channels, 3)] * (2 * blocks - 1))
    weights = {}
    for i, (c_out, c_in, size) in enumerate(shapes):
        values = array("con_4", c_out * (c_in * size * size + 1))
        scale, shift = array("affine_", 2 * c_out).reshape(2, c_out)
        kernel = values[:-c_out].reshape(c_out, c_in, size, size).transpose(2, 3, 1, 0)
        weights[f"conv{i}/kernel"] = np.float32(kernel * scale)
        weights[f"conv{i}/bias"] = np.float32(values[-c_out:] * scale + shift)
    fc = array("fc_2", 256, 128).reshape(256, 128)
    return weights | {"descriptor/kernel": np.float32(fc)}

"""VGG19 and VGGFace as the content loss sees them: five taps each (section 3.2).

Both were trained with Caffe: on BGR in [0, 255] less a mean. Weights trained on another
input are rewritten for RGB in [0, 255] when they are loaded, so one forward serves all
files and a frame cannot be fed in the wrong scale or order.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from data_pipeline.errors import InputError
from flax_heads.weight_files import read_tensors

_CHANNELS = (64, 128, 256, 512, 512)  # of the five blocks
_NUMBERED = re.compile(r"(?:module\.)?(?:features\.)?(\d+)\.(?:weight|bias)")


@dataclasses.dataclass(frozen=True)
class _Source:
    """Input that a file's first layer was trained on: (x - mean) / std, x in [0, 255].

    `mean` and `std` are in the order of `channels`.
    """

    channels: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    keras: bool = False  # kernels are [h, w, in, out] then, else PyTorch's


@dataclasses.dataclass(frozen=True)
class _Network:
    """What is known of one network and its published files.

    Attributes:
      label: for messages.
      convs: convolutions in each block, up to the last tap.
      pattern: how a layer is called that is not just numbered.
      sources: what `source` may be.
      marks: pieces of file names that give the source away.
    """

    label: str
    convs: tuple[int, ...]
    pattern: re.Pattern
    sources: Mapping[str, _Source]
    marks: Mapping[str, str]

    @property
    def layers(self) -> list[str]:
        """Names in order: conv1_1, conv1_2, conv2_1, ..., conv5_1."""
        return [
            f"conv{b}_{i + 1}" for b, n in enumerate(self.convs, 1) for i in range(n)
        ]

    @property
    def numbers(self) -> dict[str, int]:
        """Places in torchvision's list, which has the ReLUs and the pooling as well."""
        return {layer: 2 * i + int(layer[4]) - 1 for i, layer in enumerate(self.layers)}

    def named(self, name: str) -> str | None:
        """Our name of the layer that a file calls so."""
        match = self.pattern.fullmatch(name)
        return match and f"conv{match['block']}_{match['i']}"


_IMAGENET_BGR = (103.939, 116.779, 123.68)
_FACES_BGR = (93.5940, 104.7624, 129.1863)

_VGG19 = _Network(
    label="VGG19",
    convs=(2, 2, 4, 4, 1),
    pattern=re.compile(r"(?:block|conv_?)(?P<block>\d)_(?:conv)?(?P<i>\d)"),
    sources={
        "caffe": _Source("BGR", _IMAGENET_BGR),
        "keras": _Source("BGR", _IMAGENET_BGR, keras=True),
        "torchvision": _Source(
            "RGB",
            mean=(0.485 * 255, 0.456 * 255, 0.406 * 255),
            std=(0.229 * 255, 0.224 * 255, 0.225 * 255),
        ),
    },
    marks={"d01eb7cb": "caffe", "dcbb9e9d": "torchvision"},
)
_VGGFACE = _Network(
    label="VGGFace",
    convs=(2, 2, 3, 3, 1),
    # Keras calls the layers of its VGG-16 for ImageNet block1_conv1: not these.
    pattern=re.compile(r"conv_?(?P<block>\d)_(?P<i>\d)"),
    sources={
        "caffe": _Source("BGR", _FACES_BGR),
        "keras": _Source("BGR", _FACES_BGR, keras=True),
        "matconvnet": _Source("RGB", _FACES_BGR[::-1]),
    },
    marks={"vgg_face_dag": "matconvnet"},
)


def load_vgg19(path: str | os.PathLike, source: str = "auto") -> dict[str, Any]:
    """VGG19's convolutions up to conv5_1, for `vgg_features`.

    Reads the files that `weight_files.read_tensors` can, with layers named as by
    torchvision (`features.0.weight`), Keras (`block1_conv1/...`) or Caffe (`conv1_1`).

    Args:
      path: e.g. vgg19-d01eb7cb.pth (Caffe's own weights, which the paper used),
        vgg19-dcbb9e9d.pth (torchvision's) or Keras' vgg19_weights_..._notop.h5.
      source: whose weights they are: "caffe" (BGR in [0, 255] less the mean), "keras"
        (the same, kernels as Keras stores them) or "torchvision" (RGB in [0, 1],
        normalised). "auto" tells by the kernels' layout and by the names of the files
        above; tensors alone cannot tell Caffe's from torchvision's.

    Returns:
      {"mean": [3], "conv1_1": {"kernel": [3, 3, in, out], "bias": [out]}, ...},
      float32; they expect RGB in [0, 255] less "mean".

    Raises:
      InputError: no such source, or "auto" cannot tell; a file that cannot be read; a
        tensor that is missing or of another shape.
    """
    return _load(_VGG19, path, source)


def load_vggface(path: str | os.PathLike, source: str = "auto") -> dict[str, Any]:
    """The same for VGGFace, a VGG-16 trained to tell 2,622 people apart.

    Args:
      path: e.g. vgg_face_dag.pth or rcmalli_vggface_tf_notop_vgg16.h5.
      source: "matconvnet" (RGB in [0, 255] less the mean; vgg_face_dag.pth), "caffe"
        or "keras" (BGR). "auto" as in `load_vgg19`.
    """
    return _load(_VGGFACE, path, source)


def vgg_features(variables: Mapping, frames: jax.Array) -> list[jax.Array]:
    """relu1_1, relu2_1, relu3_1, relu4_1 and relu5_1 of either network.

    Args:
      variables: from `load_vgg19` or `load_vggface`.
      frames: float [B, H, W, 3] RGB in [-1, 1], H and W at least 16.

    Returns:
      five float32 maps [B, H / 2^i, W / 2^i, C], C = 64, 128, 256, 512, 512.
    """
    if min(frames.shape[1:3]) < 16:
        raise ValueError(f"frames {frames.shape} are too small for conv5_1")
    x = (frames.astype(jnp.float32) + 1) * 127.5 - variables["mean"]
    taps = []
    for block in range(1, 6):
        if block > 1:
            x = _max_pool(x)
        convs = sum(name.startswith(f"conv{block}_") for name in variables)
        for i in range(convs):
            x = jax.nn.relu(_convolve(variables[f"conv{block}_{i + 1}"], x))
            if i == 0:
                taps.append(x)
    return taps


def as_perceptual(
    variables: Mapping,
) -> tuple[Callable[[Mapping, jax.Array], list[jax.Array]], dict[str, Any]]:
    """A perceptual network `(apply, variables)` for `objectives.PerceptualNetwork`."""
    return vgg_features, jax.tree.map(jnp.asarray, dict(variables))


def _convolve(layer: Mapping, x: jax.Array) -> jax.Array:
    # The padding is zero after the mean is taken off, as in training.
    return layer["bias"] + jax.lax.conv_general_dilated(
        x,
        layer["kernel"],
        (1, 1),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def _max_pool(x: jax.Array) -> jax.Array:
    """2 wide, stride 2; an odd last row or column falls away.

    As slices its gradient is 20 times faster on a CPU than `reduce_window`'s.
    """
    h, w = (n // 2 * 2 for n in x.shape[1:3])
    x = jnp.maximum(x[:, 0:h:2], x[:, 1:h:2])
    return jnp.maximum(x[:, :, 0:w:2], x[:, :, 1:w:2])


def _load(network: _Network, path: str | os.PathLike, source: str) -> dict[str, Any]:
    path = pathlib.Path(path)
    if source != "auto" and source not in network.sources:
        raise InputError(
            f"{path}: no source of {network.label} is called {source!r}; choose from "
            f"auto, {', '.join(network.sources)}",
            "unknown_source",
        )
    found = _by_layer(network, path, read_tensors(path))
    if source == "auto":
        source = _guess(network, path, found["conv1_1", "kernel"][1])
    origin = network.sources[source]
    variables: dict[str, Any] = {}
    inputs = 3
    for layer in network.layers:
        outputs = _CHANNELS[int(layer[4]) - 1]
        if origin.keras:
            kernel = _checked(path, found[layer, "kernel"], (3, 3, inputs, outputs))
        else:
            kernel = _checked(path, found[layer, "kernel"], (outputs, inputs, 3, 3))
            kernel = np.ascontiguousarray(kernel.transpose(2, 3, 1, 0))
        bias = _checked(path, found[layer, "bias"], (outputs,))
        variables[layer] = {"kernel": kernel, "bias": bias}
        inputs = outputs
    order = [origin.channels.index(channel) for channel in "RGB"]
    scaled = variables["conv1_1"]["kernel"] / np.float32(origin.std)[:, None]
    variables["conv1_1"]["kernel"] = scaled[:, :, order]
    variables["mean"] = np.float32(origin.mean)[order]
    return variables


def _checked(
    path: pathlib.Path, named: tuple[str, np.ndarray], shape: tuple[int, ...]
) -> np.ndarray:
    name, tensor = named
    if tensor.shape != shape:
        problem = f"is {tensor.shape} where {shape} is expected; is it another network?"
    elif not np.isfinite(tensor).all():
        problem = "is not finite"
    else:
        return np.asarray(tensor, np.float32)
    raise InputError(f"{path}: {name} {problem}", "bad_weights")


def _by_layer(
    network: _Network, path: pathlib.Path, tensors: Mapping[str, np.ndarray]
) -> dict[tuple[str, str], tuple[str, np.ndarray]]:
    """(layer, "kernel" or "bias") -> the tensor's name in the file, and the tensor."""
    numbers = network.numbers
    layers = {number: layer for layer, number in numbers.items()}
    found: dict[tuple[str, str], tuple[str, np.ndarray]] = {}
    for name, tensor in tensors.items():
        if name.startswith("optimizer"):
            continue
        if match := _NUMBERED.fullmatch(name):
            layer = layers.get(int(match[1]))
        else:
            layer = next(filter(None, map(network.named, re.split("[./]", name))), None)
        if layer is None:
            continue
        if layer not in numbers and layer < "conv5":  # a VGG19 has all of a VGG-16
            raise InputError(
                f"{path}: has {name}, which {network.label} has not; is it another "
                "network?",
                "bad_weights",
            )
        key = (layer, "bias" if tensor.ndim == 1 else "kernel")
        if key in found:
            raise InputError(
                f"{path}: {found[key][0]} and {name} could both be {layer}'s {key[1]}",
                "bad_weights",
            )
        found[key] = name, tensor
    for layer, number in numbers.items():
        for part in ("kernel", "bias"):
            if (layer, part) not in found:
                raise InputError(
                    f"{path}: has no {part} of {network.label}'s {layer} (or "
                    f"features.{number}); is it another network?",
                    "bad_weights",
                )
    return found


def _guess(network: _Network, path: pathlib.Path, first_kernel: np.ndarray) -> str:
    """The source of a file, by its kernels' layout or its name."""
    if first_kernel.shape[:3] == (3, 3, 3):
        return "keras"
    for mark, source in network.marks.items():
        if mark in path.name:
            return source
    choices = [name for name, source in network.sources.items() if not source.keras]
    raise InputError(
        f"{path}: does not tell what input these {network.label} weights were trained "
        f"on; give the source: {' or '.join(choices)}",
        "unknown_source",
    )

"""Weights to and from PyTorch, as plain tensors in a file: no torch is needed here.

A leaf of our trees and its tensor in the `state_dict` of PyTorch modules of the same
names, whose layers carry `torch.nn.utils.parametrizations.spectral_norm`:

    ours (path joined by /)        PyTorch's (path joined by .)           shape there
    .../conv1/kernel [h,w,I,O]     ....conv1.parametrizations.weight.original [O,I,h,w]
    .../dense/kernel [I,O]         ....dense.parametrizations.weight.original [O,I]
    vectors[".../kernel"]["u"]     .....parametrizations.weight.0._u      [O]
    vectors[".../kernel"]["v"]     .....parametrizations.weight.0._v      [I*h*w]
    .../bias                       ....bias                               [O]
    .../norm1/scale                ....norm1.weight                       [C]
    .../gamma, w0, b               ....gamma, w0, b                       [], [N], []

u is the side of the output channels in both. v runs over (h, w, I) here and over
(I, h, w) there. A file holds "embedder.", "generator.", "projection." and
"discriminator."; layers are named as in `layers.py` (down1.conv2, attention.query, up3.skip,
...). W, the training videos' embeddings, stays behind: no new person needs it.
"""

from __future__ import annotations

import functools
import json
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from ml_collections import ConfigDict

from data_pipeline.errors import InputError
from data_pipeline.outputs import whole_file
from flax_heads import checkpoints, parallel, recipe, spectral
from flax_heads.meta_model import MetaModel, load_model
from flax_heads.weight_files import read_tensors

_NORMALIZED = "parametrizations.weight"


def to_state_dict(params: Any, vectors: spectral.Vectors) -> dict[str, np.ndarray]:
    """Our trees as the tensors of a `state_dict`.

    Args:
      params: a parameter tree, or one of its shape such as its gradient.
      vectors: the singular vectors of its kernels; {} leaves them out.

    Returns:
      contiguous arrays by name, as the table above says.
    """
    tensors = {}
    flat = flatten_dict(params, sep="/")
    for path, leaf in flat.items():
        leaf = np.asarray(leaf)
        tensors[_name(path)] = _out_in(leaf) if _is_kernel(path) else leaf
    for path, pair in vectors.items():
        *window, inputs, _ = flat[path].shape
        v = np.asarray(pair["v"]).reshape(*window, inputs)
        tensors[_vector_name(path, "u")] = np.asarray(pair["u"])
        tensors[_vector_name(path, "v")] = np.moveaxis(v, -1, 0).reshape(-1)
    # Not `ascontiguousarray`, which gives scalars an axis.
    return {name: np.array(tensor, order="C") for name, tensor in tensors.items()}


def from_state_dict(
    tensors: Mapping[str, np.ndarray],
    like_params: Any,
    like_vectors: spectral.Vectors,
    source: str = "state_dict",
) -> tuple[Any, spectral.Vectors]:
    """The tensors of a `state_dict` as our trees.

    Args:
      tensors: floating-point arrays by name.
      like_params, like_vectors: trees whose leaves have the shapes and types wanted;
        `jax.ShapeDtypeStruct` will do.
      source: the file, for messages.

    Returns:
      (params, vectors), numpy.

    Raises:
      InputError: a tensor is missing, unknown, of another shape, not of floating-point
        numbers or not finite. The message names it.
    """
    remaining = dict(tensors)

    def take(name, shape, dtype):
        if name not in remaining:
            raise InputError(
                f"{source}: has no tensor {name!r} {list(shape)}; expected the state_dict "
                "of spectrally normalised modules, named as in flax_heads/torch_weights.py",
                "missing_tensor",
            )
        tensor = np.asarray(remaining.pop(name))
        if tensor.shape != shape:
            raise InputError(
                f"{source}: tensor {name!r} has shape {list(tensor.shape)}, the config's "
                f"networks want {list(shape)}; use the config that the weights belong to",
                "other_shape",
            )
        if not jnp.issubdtype(tensor.dtype, jnp.floating):
            raise InputError(
                f"{source}: tensor {name!r} holds {tensor.dtype}, not floating-point "
                "numbers; export the weights unquantised",
                "not_floating",
            )
        tensor = tensor.astype(dtype)
        if not np.isfinite(tensor).all():
            raise InputError(
                f"{source}: tensor {name!r} holds NaN or infinity; use an earlier "
                "checkpoint of that training",
                "not_finite",
            )
        return tensor

    params, vectors = {}, {}
    flat = flatten_dict(like_params, sep="/")
    for path, like in flat.items():
        if _is_kernel(path):
            *window, inputs, outputs = like.shape
            kernel = take(_name(path), (outputs, inputs, *window), like.dtype)
            params[path] = np.moveaxis(kernel, (0, 1), (-1, -2))
        else:
            params[path] = take(_name(path), tuple(like.shape), like.dtype)
    for path, pair in like_vectors.items():
        *window, inputs, outputs = flat[path].shape
        u = take(_vector_name(path, "u"), (outputs,), pair["u"].dtype)
        v = take(_vector_name(path, "v"), tuple(pair["v"].shape), pair["v"].dtype)
        v = np.moveaxis(v.reshape(inputs, *window), 0, -1).reshape(-1)
        vectors[path] = {"u": u, "v": v}
    if remaining:
        raise InputError(
            f"{source}: tensor {min(remaining)!r} is none of this config's networks' "
            f"({len(remaining)} such); use the config that the weights belong to",
            "unknown_tensor",
        )
    return unflatten_dict(params, sep="/"), vectors


def export_torch(
    model: str | pathlib.Path | MetaModel,
    path: str | pathlib.Path,
    step: int | None = None,
) -> None:
    """Writes a meta-learned model as `.safetensors` that PyTorch loads.

    The file holds the moving averages of E, G and P, the discriminator with w0 and b,
    and all singular vectors; its metadata the "config" as JSON and the "step". Read it by
    `safetensors.torch.load_file` and `load_state_dict(..., strict=True)`, in `eval()`
    mode: training mode iterates the vectors at each pass.

    Args:
      model: a training run's workdir, or from `load_model`.
      path: of the file, which ends in .safetensors.
      step: which checkpoint of a workdir; the newest by default.

    Raises:
      InputError: no checkpoint there, another suffix, or no library safetensors.
    """
    try:
        from safetensors.numpy import save
    except ImportError as error:
        raise InputError(
            f"{path}: writing it needs the library safetensors: pip install safetensors",
            "missing_library",
        ) from error
    path = pathlib.Path(path)
    if path.suffix != ".safetensors":
        raise InputError(f"{path}: name the file *.safetensors", "suffix")
    if not isinstance(model, MetaModel):
        model = load_model(model, step)
    tensors = to_state_dict(
        *_join(
            model.params,
            model.vectors,
            model.discriminator,
            model.discriminator_vectors,
        )
    )
    metadata = {
        "format": "pt",
        # Without the folders of one machine, as in `model_file.write`.
        "config": json.dumps(
            recipe.as_json(model.config) | {"init_from": "", "resume": ""}
        ),
        "step": str(model.step),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as part:
        part.write_bytes(save(tensors, metadata))


def import_torch(
    path: str | pathlib.Path, config: ConfigDict, workdir: str | pathlib.Path
) -> None:
    """Makes a workdir whose checkpoint of step 0 holds the weights of a file.

    `load_model`, `flax-heads finetune --model` and `config.init_from` take it as any
    other run. Parameters and moving averages are the file's; optimisers and W start
    fresh, W for a single video: train further through `init_from`, which makes W anew.

    Args:
      path: .safetensors, or a `state_dict` saved by torch as .pth or .pt.
      config: of the networks; also what the checkpoint will say it was made by.
      workdir: a new or empty one.

    Raises:
      InputError: an unreadable file, tensors that are not those of the config's
        networks, or a workdir that is not empty.
    """
    workdir = pathlib.Path(workdir)
    if workdir.exists() and (not workdir.is_dir() or any(workdir.iterdir())):
        raise InputError(f"{workdir}: is not empty; name a new folder", "not_empty")
    init = functools.partial(recipe.new_state, config, num_videos=1)
    like = jax.eval_shape(init)
    params, vectors = from_state_dict(
        read_tensors(path),
        *_join(
            like.generator.params,
            like.generator.vectors,
            like.discriminator.params,
            like.discriminator.vectors,
        ),
        source=str(path),
    )
    theta = {k: v for k, v in vectors.items() if k.startswith("discriminator/")}
    loaded = {
        "discriminator": params.pop("discriminator"),
        "discriminator_vectors": {k.split("/", 1)[1]: v for k, v in theta.items()},
        "ema": params,
        "generator_vectors": {k: v for k, v in vectors.items() if k not in theta},
    }
    state = parallel.jit_init(init, parallel.make_mesh())
    state = checkpoints.with_networks(state, loaded, str(path))
    workdir.mkdir(parents=True, exist_ok=True)
    (workdir / "config.json").write_text(config.to_json_best_effort(indent=2))
    with checkpoints.open_manager(workdir, config.keep_checkpoints) as manager:
        checkpoints.save(manager, 0, state, recipe.as_json(config))


def _join(params, vectors, discriminator, discriminator_vectors):
    """(params, vectors) of all four networks, the discriminator beside the others."""
    theta = {f"discriminator/{k}": v for k, v in discriminator_vectors.items()}
    return {**params, "discriminator": discriminator}, {**vectors, **theta}


def _is_kernel(path: str) -> bool:
    return path.rsplit("/", 1)[-1] == "kernel"


def _name(path: str) -> str:
    *parents, last = path.split("/")
    last = {"kernel": f"{_NORMALIZED}.original", "scale": "weight"}.get(last, last)
    return ".".join([*parents, last])


def _vector_name(path: str, vector: str) -> str:
    return ".".join([*path.split("/")[:-1], _NORMALIZED, "0", f"_{vector}"])


def _out_in(kernel: np.ndarray) -> np.ndarray:
    """[h, w, I, O] -> [O, I, h, w], and [I, O] -> [O, I]."""
    return np.moveaxis(kernel, (-1, -2), (0, 1))

"""Spectral normalisation (Miyato et al. 2018) as functions on a parameter tree.

The networks know nothing of it: they are applied to `normalize(params, vectors)`.
One `power_iteration` follows each optimiser update, for all kernels at once, so a
forward pass costs nothing extra, and a finished model keeps the normalised weights.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict

Params = Any
# {path of a kernel: {"u": [out], "v": [in]}}: its leading singular vectors.
Vectors = dict[str, dict[str, jax.Array]]

_EPS = 1e-4  # the value of the authors' lab


def init_vectors(params: Params, key: jax.Array, num_iterations: int = 15) -> Vectors:
    """Random vectors, iterated until sigma is near the largest singular value."""
    vectors = {}
    for i, (path, matrix) in enumerate(sorted(_matrices(params).items())):
        u = jax.random.normal(jax.random.fold_in(key, i), matrix.shape[1:])
        vectors[path] = {"u": _unit(u), "v": jnp.zeros(matrix.shape[:1])}
    return power_iteration(params, vectors, num_iterations)


def power_iteration(
    params: Params, vectors: Vectors, num_iterations: int = 1
) -> Vectors:
    """Refines every kernel's singular vectors; kernels of one shape go as a batch."""
    by_shape: dict[tuple[int, ...], list[str]] = {}
    matrices = _matrices(params)
    for path, matrix in sorted(matrices.items()):
        by_shape.setdefault(matrix.shape, []).append(path)
    refined = {}
    for paths in by_shape.values():
        stacked = jnp.stack([matrices[path] for path in paths])  # [n, in, out]
        pair = tuple(
            jnp.stack([vectors[path][name] for path in paths]) for name in ("u", "v")
        )  # [n, out], [n, in]

        def iterate(_, pair, stacked=stacked):
            v = _unit(jnp.einsum("nio,no->ni", stacked, pair[0]))
            return _unit(jnp.einsum("nio,ni->no", stacked, v)), v

        u, v = jax.lax.fori_loop(0, num_iterations, iterate, pair)
        refined.update({p: {"u": u[i], "v": v[i]} for i, p in enumerate(paths)})
    return jax.lax.stop_gradient(refined)


def refine(params: Params, vectors: Vectors) -> Vectors:
    """Vectors of one tree, brought to another near it, such as its moving average."""
    return power_iteration(params, vectors, num_iterations=10)


def fold(params: Params, vectors: Vectors) -> Params:
    """`normalize` for good: with vectors of these very parameters."""
    return normalize(params, refine(params, vectors))


def normalize(params: Params, vectors: Vectors) -> Params:
    """Divides every kernel W by sigma(W) = u^T W v; other leaves are untouched.

    The gradient flows through sigma and not through u and v, as in the paper.
    """
    flat = flatten_dict(params, sep="/")
    for path, matrix in _matrices(params).items():
        pair = vectors[path]
        flat[path] = flat[path] / jnp.einsum("io,o,i->", matrix, pair["u"], pair["v"])
    return unflatten_dict(flat, sep="/")


def _matrices(params: Params) -> dict[str, jax.Array]:
    """Kernels as [in, out]: convolutions [h, w, in, out] and dense alike.

    The transpose of the usual W, which would have to be made first.
    """
    return {
        path: leaf.reshape(-1, leaf.shape[-1])
        for path, leaf in flatten_dict(params, sep="/").items()
        if path.rsplit("/", 1)[-1] == "kernel"
    }


def _unit(x: jax.Array) -> jax.Array:
    return x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), _EPS)

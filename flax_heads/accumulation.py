"""A batch in parts that follow each other: a large batch in a small one's memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


def over_parts(
    num_parts: int, function: Callable[..., tuple[Any, Any]], *batch: Any
) -> tuple[Any, Any]:
    """Runs a function over parts of a batch, one after the other.

    Args:
      num_parts: that the batch, of every device, divides into.
      function: of trees of a part, to (means over its examples, values of each example).
      *batch: trees whose leaves have a leading axis B.

    Returns:
      the same of the whole batch.
    """
    if num_parts == 1:
        return function(*batch)

    # Part i has the examples i, i + n, ...: so those of each device divide evenly.
    def split(x):
        return x.reshape(-1, num_parts, *x.shape[1:]).swapaxes(0, 1)

    def add(sums, part):
        means, each = function(*part)
        return jax.tree.map(jnp.add, sums, means), each

    parts = jax.tree.map(split, batch)
    first = jax.tree.map(lambda x: x[0], parts)
    zeros = jax.tree.map(
        lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(function, *first)[0]
    )
    sums, each = jax.lax.scan(add, zeros, parts)
    return (
        jax.tree.map(lambda x: x / num_parts, sums),
        jax.tree.map(lambda x: x.swapaxes(0, 1).reshape(-1, *x.shape[2:]), each),
    )

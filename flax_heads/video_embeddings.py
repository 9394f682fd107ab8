"""W: one N-vector per training video, updated row by row (paper, section 3.1).

A step touches the rows of its batch only, whatever the number of videos M. With Adam's
beta1 = 0 a row without a gradient does not move, so this equals the dense update; its
second moment still decays, which `last_update` accounts for when the row is next seen.
(Steps that were skipped for not being finite count as updates there, and only there.)
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import struct

from flax_heads.discriminator import embedding_init

# Rows are padded to a multiple of this, so that they shard over any usual device count
# and a checkpoint does not depend on it.
ROW_MULTIPLE = 128


class VideoEmbeddings(struct.PyTreeNode):
    """W and its Adam state.

    Attributes:
      values: float32 [M', N]; M' is M padded to ROW_MULTIPLE.
      second_moment: float32 [M', N].
      last_update: int32 [M'], the discriminator update that last touched the row.
    """

    values: jax.Array
    second_moment: jax.Array
    last_update: jax.Array


def init_video_embeddings(
    key: jax.Array, num_videos: int, size: int
) -> VideoEmbeddings:
    rows = -(-num_videos // ROW_MULTIPLE) * ROW_MULTIPLE
    return VideoEmbeddings(
        values=embedding_init(key, (rows, size)),
        second_moment=jnp.zeros((rows, size)),
        last_update=jnp.zeros((rows,), jnp.int32),
    )


def take_rows(table: VideoEmbeddings, video_index: jax.Array) -> VideoEmbeddings:
    """The rows of a batch, int32 [B]: leaves [B, ...]."""
    return jax.tree.map(lambda w: w[video_index], table)


def put_rows(
    table: VideoEmbeddings, video_index: jax.Array, rows: VideoEmbeddings
) -> VideoEmbeddings:
    """Writes a batch's rows back; rows of one video must be equal.

    One reading and one writing of W in a step: then XLA does it in place, and the rest
    of W, however large, is neither copied nor sent.
    """
    return jax.tree.map(lambda w, r: w.at[video_index].set(r), table, rows)


def update_rows(
    rows: VideoEmbeddings,
    video_index: jax.Array,
    gradients: jax.Array,
    count: jax.Array,
    *,
    learning_rate: float,
    b2: float,
    eps: float,
) -> VideoEmbeddings:
    """One Adam update (beta1 = 0) of a batch's rows.

    Args:
      rows: of W and its state, from `take_rows`.
      video_index: int32 [B]; a video may occur more than once.
      gradients: float32 [B, N], of the loss with respect to each row.
      count: int32, this update's number, from 1.
      learning_rate, b2, eps: Adam's.
    """
    # Occurrences of one video add their gradients and then become the same new row.
    same = (video_index[:, None] == video_index[None, :]).astype(gradients.dtype)
    gradients = jnp.matmul(same, gradients, precision="highest")  # float32, not TF32
    idle = (count - rows.last_update)[:, None].astype(jnp.float32)
    moment = b2**idle * rows.second_moment + (1 - b2) * jnp.square(gradients)
    unbiased = moment / (1 - b2 ** count.astype(jnp.float32))
    change = learning_rate * gradients / (jnp.sqrt(unbiased) + eps)
    return VideoEmbeddings(
        values=rows.values - change,
        second_moment=moment,
        last_update=jnp.full_like(rows.last_update, count),
    )

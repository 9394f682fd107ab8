"""D(x, y, i): is this frame real, in this pose, and of this video? (eq. 5 and 8)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import linen as nn

from flax_heads.layers import SelfAttention, blocks, sum_pool

# Every entry of W and of w0 starts in [-0.1, 0.1], as in the lab's code.
EMBEDDING_RANGE = 0.1


def embedding_init(key, shape, dtype=jnp.float32):
    return jax.random.uniform(key, shape, dtype, -EMBEDDING_RANGE, EMBEDDING_RANGE)


class Discriminator(nn.Module):
    """The ConvNet V with the head w0, b; W lives apart (`video_embeddings.py`).

    Attributes:
      channels: of the down blocks; a block of the last width without resampling follows.
      attention_after, relu_before_sum, rectified_skip, dtype, remat: as in `Embedder`.
    """

    channels: tuple[int, ...] = (64, 128, 256, 512, 512, 512)
    attention_after: int | None = 3
    relu_before_sum: bool = False
    rectified_skip: bool = False
    dtype: jnp.dtype = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(
        self, frames: jax.Array, rasters: jax.Array, video_embedding: jax.Array
    ) -> tuple[jax.Array, tuple[jax.Array, ...]]:
        """Scores frames: r = V(x, y)^T (W_i + w0) + b, without a sigmoid.

        Args:
          frames, rasters: float [B, H, W, 3] in [-1, 1].
          video_embedding: float [B, N], W_i. While fine-tuning it is zero and w0 holds
            the paper's w' (eq. 8).

        Returns:
          scores float32 [B], and V's activations after each residual block, for feature
          matching.
        """
        first_block, residual_block = blocks(self.remat)
        block = dict(rectified_skip=self.rectified_skip, dtype=self.dtype)
        x = jnp.concatenate([frames, rasters], -1).astype(self.dtype)
        features = []
        for i, channels in enumerate(self.channels, start=1):
            if i == 1:
                x = first_block(channels, dtype=self.dtype, name="down1")(x)
            else:
                x = residual_block(channels, "down", name=f"down{i}", **block)(x)
            features.append(x)
            if i == self.attention_after:
                x = SelfAttention(dtype=self.dtype, name="attention")(x)
        x = residual_block(self.channels[-1], name="residual", **block)(x)
        features.append(x)
        pooled = sum_pool(x, self.relu_before_sum)  # [B, N]
        w0 = self.param("w0", embedding_init, (self.channels[-1],))
        bias = self.param("b", nn.initializers.zeros, ())
        scores = jnp.einsum("bn,bn->b", pooled, video_embedding + w0) + bias
        return scores, tuple(features)

"""E(x, y): what a person looks like, whatever the pose (paper, section 3.1, eq. 1)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import linen as nn

from flax_heads.layers import SelfAttention, blocks, sum_pool


class Embedder(nn.Module):
    """Maps frames and their rasters to N-vectors, N = channels[-1].

    Attributes:
      channels: output channels of the down blocks, each halving the side.
      attention_after: self-attention follows this many down blocks; None leaves it out.
      relu_before_sum, rectified_skip: see `layers.sum_pool` and `ResidualBlock`.
      dtype, remat: compute type; see `layers.blocks`.
    """

    channels: tuple[int, ...] = (64, 128, 256, 512, 512, 512)
    attention_after: int | None = 3
    relu_before_sum: bool = False
    rectified_skip: bool = False
    dtype: jnp.dtype = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(self, frames: jax.Array, rasters: jax.Array) -> jax.Array:
        """Embeds images one by one.

        Args:
          frames, rasters: float [B, H, W, 3] in [-1, 1].

        Returns:
          float32 [B, N]; the paper's e-hat is its mean over a person's K or T images.
        """
        first_block, residual_block = blocks(self.remat)
        x = jnp.concatenate([frames, rasters], -1).astype(self.dtype)
        for i, channels in enumerate(self.channels, start=1):
            if i == 1:
                x = first_block(channels, dtype=self.dtype, name="down1")(x)
            else:
                x = residual_block(
                    channels,
                    resample="down",
                    rectified_skip=self.rectified_skip,
                    dtype=self.dtype,
                    name=f"down{i}",
                )(x)
            if i == self.attention_after:
                x = SelfAttention(dtype=self.dtype, name="attention")(x)
        return sum_pool(x, self.relu_before_sum)

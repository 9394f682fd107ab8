"""G(y, psi): a raster to a frame, and P: an embedding to psi (paper, section 3.1)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import linen as nn

from flax_heads.layers import (
    Conv,
    SelfAttention,
    Style,
    adaptive_instance_norm,
    blocks,
)


class Generator(nn.Module):
    """Image-to-image network whose AdaIN parameters are the person-specific psi.

    Attributes:
      channels: of the down blocks; the up blocks mirror them.
      num_residual_blocks: AdaIN blocks at the smallest side.
      attention_after: self-attention follows this many down blocks, or None.
      up_attention_after: the same for the up blocks.
      rectified_skip: see `ResidualBlock`.
      dtype, remat: compute type; see `layers.blocks`.
    """

    channels: tuple[int, ...] = (64, 128, 256, 512)
    num_residual_blocks: int = 4
    attention_after: int | None = 3
    up_attention_after: int | None = 2
    rectified_skip: bool = False
    dtype: jnp.dtype = jnp.float32
    remat: bool = False

    @property
    def style_channels(self) -> tuple[int, ...]:
        """Channels of every AdaIN layer, in the order in which psi holds them."""
        deep = self.channels[-1]
        up = tuple(reversed(self.channels))
        inputs = (deep, *up[:-1])
        pairs = [(deep, deep)] * self.num_residual_blocks + list(zip(inputs, up))
        return (*(c for pair in pairs for c in pair), up[-1])

    @property
    def psi_size(self) -> int:
        """Length of psi: a gamma and a beta for every AdaIN channel."""
        return 2 * sum(self.style_channels)

    @nn.compact
    def __call__(self, rasters: jax.Array, psi: jax.Array) -> jax.Array:
        """Draws the person `psi` in the pose of the raster (eq. 2).

        Args:
          rasters: float [B, H, W, 3] in [-1, 1].
          psi: float [B, psi_size].

        Returns:
          float32 frames [B, H, W, 3] in [-1, 1].
        """
        styles = split_psi(psi, self.style_channels)
        first_block, residual_block = blocks(self.remat)
        block = dict(rectified_skip=self.rectified_skip, dtype=self.dtype)
        x = rasters.astype(self.dtype)
        for i, channels in enumerate(self.channels, start=1):
            if i == 1:
                x = first_block(channels, dtype=self.dtype, name="down1")(x)
            else:
                x = residual_block(
                    channels, "down", norm="instance", name=f"down{i}", **block
                )(x)
            if i == self.attention_after:
                x = SelfAttention(dtype=self.dtype, name="attention")(x)
        deep = self.channels[-1]
        for i in range(1, self.num_residual_blocks + 1):
            pair, styles = styles[:2], styles[2:]
            x = residual_block(deep, norm="adaptive", name=f"residual{i}", **block)(
                x, pair
            )
        for i, channels in enumerate(reversed(self.channels), start=1):
            pair, styles = styles[:2], styles[2:]
            x = residual_block(channels, "up", norm="adaptive", name=f"up{i}", **block)(
                x, pair
            )
            if i == self.up_attention_after:
                x = SelfAttention(dtype=self.dtype, name="up_attention")(x)
        x = nn.relu(adaptive_instance_norm(x, styles[0]))
        x = Conv(3, dtype=self.dtype, name="to_rgb")(x)
        return jnp.tanh(x.astype(jnp.float32))


class Projection(nn.Module):
    """P: psi = P e-hat, a dense layer. Its bias starts as the identity style.

    AdaIN uses gamma as it comes, so gammas begin at 1 and betas at 0.
    """

    style_channels: tuple[int, ...]

    @nn.compact
    def __call__(self, embedding: jax.Array) -> jax.Array:
        """float [B, N] -> float32 [B, psi_size]."""

        def identity_style(key, shape, dtype=jnp.float32):
            del key
            ones_and_zeros = [
                part
                for c in self.style_channels
                for part in (jnp.ones(c), jnp.zeros(c))
            ]
            return jnp.concatenate(ones_and_zeros).reshape(shape).astype(dtype)

        return nn.Dense(
            2 * sum(self.style_channels),
            kernel_init=nn.initializers.xavier_uniform(),
            bias_init=identity_style,
            name="dense",
        )(embedding)


def split_psi(psi: jax.Array, style_channels: tuple[int, ...]) -> list[Style]:
    """Cuts psi [B, psi_size] into (gamma, beta) of every AdaIN layer in turn."""
    styles, start = [], 0
    for c in style_channels:
        styles.append((psi[:, start : start + c], psi[:, start + c : start + 2 * c]))
        start += 2 * c
    return styles

"""The blocks that all three networks are made of (paper, section 3.3)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from flax_heads.convolutions import (
    conv,
    conv_downsample,
    downsample,
    upsample,
    upsample_conv,
)

# (gamma, beta), each [B, C]: the style that AdaIN applies after normalising.
Style = tuple[jax.Array, jax.Array]

_kernel_init = nn.initializers.xavier_uniform()
_INSTANCE_NORM_EPS = 1e-4
_MOST_QUERIES = 512  # that attention looks up at once


def instance_norm(x: jax.Array, scale=1.0, bias=0.0) -> jax.Array:
    """Zero mean and unit variance over space, per image and channel. [B, H, W, C].

    Then `scale * x + bias`, if given (float32, broadcast). All of it is float32 whatever
    the compute type: a scale near 1 rounded to bfloat16 would move in steps of 0.008,
    more than fine-tuning moves it. Eps stands inside the root.
    """
    wide = x.astype(jnp.float32)
    centred = wide - wide.mean((1, 2), keepdims=True)
    variance = jnp.square(centred).mean((1, 2), keepdims=True)
    normed = centred * jax.lax.rsqrt(variance + _INSTANCE_NORM_EPS)
    return (scale * normed + bias).astype(x.dtype)


def adaptive_instance_norm(x: jax.Array, style: Style) -> jax.Array:
    """AdaIN (Huang & Belongie 2017): gamma * instance_norm(x) + beta. [B, H, W, C]."""
    gamma, beta = (s[:, None, None, :] for s in style)
    return instance_norm(x, gamma, beta)


def sum_pool(x: jax.Array, relu_first: bool) -> jax.Array:
    """Global sum over space, rectified: [B, H, W, C] -> float32 [B, C].

    The paper sums and then rectifies; the lab's later code does it the other way
    round (`relu_first`).
    """
    x = x.astype(jnp.float32)
    if relu_first:
        return nn.relu(x).sum((1, 2))
    return nn.relu(x.sum((1, 2)))


class Conv(nn.Conv):
    """nn.Conv, 3x3 unless said otherwise, with this project's initialisation.

    `conv_general_dilated` may be `conv_downsample` or `upsample_conv`, which fuse the
    convolution with the resampling beside it; the parameters stay those of the 3x3 one.
    """

    kernel_size: tuple[int, int] = (3, 3)
    kernel_init: nn.initializers.Initializer = _kernel_init
    conv_general_dilated: Callable[..., jax.Array] = conv


class AffineInstanceNorm(nn.Module):
    """Instance norm with a learned scale and bias per channel (G's encoder)."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        channels = x.shape[-1]
        scale = self.param("scale", nn.initializers.ones, (channels,))
        bias = self.param("bias", nn.initializers.zeros, (channels,))
        return instance_norm(x, scale, bias)


class FirstBlock(nn.Module):
    """The stem of E, G and V: no pre-activation and no norm; halves the side."""

    channels: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        h = Conv(self.channels, dtype=self.dtype, name="conv1")(x)
        h = Conv(
            self.channels,
            conv_general_dilated=conv_downsample,
            dtype=self.dtype,
            name="conv2",
        )(nn.relu(h))
        skip = Conv(self.channels, (1, 1), dtype=self.dtype, name="skip")(downsample(x))
        return h + skip


class ResidualBlock(nn.Module):
    """Pre-activation residual block in BigGAN's form.

    main: [norm] -> ReLU -> [x2] -> conv3x3 -> [norm] -> ReLU -> conv3x3 -> [pool 2]
    skip: [x2] -> conv1x1 -> [pool 2], or the identity where the shape is unchanged

    Attributes:
      channels: of the output.
      resample: "down" halves the side, "up" doubles it, None keeps it.
      norm: None (E and V), "instance" (G's encoder) or "adaptive" (AdaIN). A norm makes
        the biases of the 3x3 convolutions redundant; they are left out.
      rectified_skip: the skip reads ReLU(input), as the lab's in-place ReLU makes it.
    """

    channels: int
    resample: Literal["down", "up"] | None = None
    norm: Literal["instance", "adaptive"] | None = None
    rectified_skip: bool = False
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self, x: jax.Array, styles: tuple[Style, Style] | None = None
    ) -> jax.Array:
        """[B, H, W, C_in] -> [B, H', W', channels]; `styles` belong to "adaptive"."""
        up, down = self.resample == "up", self.resample == "down"
        settings = dict(use_bias=self.norm is None, dtype=self.dtype)
        h = nn.relu(self._normalize(x, styles, 0))
        h = Conv(
            self.channels,
            conv_general_dilated=upsample_conv if up else conv,
            name="conv1",
            **settings,
        )(h)
        h = nn.relu(self._normalize(h, styles, 1))
        h = Conv(
            self.channels,
            conv_general_dilated=conv_downsample if down else conv,
            name="conv2",
            **settings,
        )(h)
        skip = nn.relu(x) if self.rectified_skip else x
        if down:
            # A 1x1 convolution commutes with pooling and with nearest upsampling:
            # running it on the smaller side gives the same numbers for a quarter
            # of the work.
            skip = downsample(skip)
        if self.resample or x.shape[-1] != self.channels:
            skip = Conv(self.channels, (1, 1), dtype=self.dtype, name="skip")(skip)
        return h + (upsample(skip) if up else skip)

    def _normalize(self, x, styles, index):
        if self.norm == "adaptive":
            return adaptive_instance_norm(x, styles[index])
        if self.norm == "instance":
            return AffineInstanceNorm(name=f"norm{index + 1}")(x)
        return x


def blocks(remat: bool) -> tuple[type[FirstBlock], type[ResidualBlock]]:
    """The block classes; with `remat`, ones that keep only their input for the gradient.

    What is inside them is computed again in the backward pass: a third more work in it
    for a fraction of the memory. The parameters are the same.
    """
    if remat:
        return nn.remat(FirstBlock), nn.remat(ResidualBlock)
    return FirstBlock, ResidualBlock


class SelfAttention(nn.Module):
    """SAGAN self-attention (Zhang et al. 2019): x + gamma * attention(x), gamma = 0 first.

    Queries and keys have C/8 channels, values C/2, as in SAGAN's released code (without
    its pooling of the keys). Logits and softmax are float32.
    """

    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        b, h, w, c = x.shape

        def project(channels, name):
            conv = Conv(channels, (1, 1), use_bias=False, dtype=self.dtype, name=name)
            return conv(x).reshape(b, h * w, channels)

        query = project(max(c // 8, 1), "query")  # [B, HW, C/8]
        key = project(max(c // 8, 1), "key")
        value = project(max(c // 2, 1), "value")  # [B, HW, C/2]
        attended = _attend_by_rows(query.reshape(b, h, w, -1), key, value)
        out = Conv(c, (1, 1), use_bias=False, dtype=self.dtype, name="out")(attended)
        gamma = self.param("gamma", nn.initializers.zeros, ())
        return x + gamma.astype(x.dtype) * out


def _attend_by_rows(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
    """Dot-product attention, a few rows of queries at a time where there are many.

    At 64x64 the float32 logits of one image are 64 MiB, and training would keep them:
    here a slice of them lives at a time, and the backward pass makes it again.

    Args:
      query: [B, H, W, C].
      key, value: [B, HW, C], [B, HW, D].

    Returns:
      [B, H, W, D].
    """
    b, h, w, c = query.shape
    most = max(1, _MOST_QUERIES // w)
    rows = max(r for r in range(1, min(h, most) + 1) if h % r == 0)

    def attend(some):  # [B, rows * W, C]
        logits = jnp.einsum(
            "bqc,bkc->bqk", some, key, preferred_element_type=jnp.float32
        )
        weights = nn.softmax(logits).astype(value.dtype)
        return jnp.einsum("bqk,bkd->bqd", weights, value)

    if rows == h:
        return attend(query.reshape(b, h * w, c)).reshape(b, h, w, -1)
    slices = query.reshape(b, h // rows, rows * w, c).swapaxes(0, 1)
    again = jax.checkpoint(attend, prevent_cse=False)  # which a loop does by itself
    attended = jax.lax.map(again, slices)
    return attended.swapaxes(0, 1).reshape(b, h, w, -1)

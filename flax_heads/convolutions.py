"""Convolutions of stride 1 that keep the size, alone or fused with resampling; NHWC.

They are XLA's own, but for what it does badly: a convolution and the resampling beside
it as two, images smaller than the kernel, and what `plain_convolution.py` names. All of
it was measured on CPUs; on accelerators the fused ones save the same multiplications.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from flax_heads.plain_convolution import conv as _conv
from flax_heads.plain_convolution import windows as _windows

# On fewer pixels of an image a fused convolution saves less than putting its kernel
# together costs. The batch has no say: it would change the rounding of an image.
_FEW_PIXELS = 64


def upsample(x: jax.Array) -> jax.Array:
    """Nearest neighbour, twice the side: [B, H, W, C] -> [B, 2H, 2W, C]."""
    b, h, w, c = x.shape
    doubled = jnp.broadcast_to(x[:, :, None, :, None, :], (b, h, 2, w, 2, c))
    return doubled.reshape(b, 2 * h, 2 * w, c)


def downsample(x: jax.Array) -> jax.Array:
    """2x2 average pool: [B, H, W, C] -> [B, H/2, W/2, C]."""
    b, h, w, c = x.shape
    return x.reshape(b, h // 2, 2, w // 2, 2, c).mean((2, 4))


def conv(x: jax.Array, kernel: jax.Array, *_, **__) -> jax.Array:
    """A convolution that keeps the size: [B, H, W, C], [s, s, C, D] -> [B, H, W, D]."""
    b, h, w, _ = x.shape
    side = kernel.shape[0]
    if side == 1:
        return jnp.einsum("bhwc,cd->bhwd", x, kernel[0, 0])
    if h >= side:
        return _conv(x, kernel, "SAME")
    # Fewer pixels than taps (V's last block at 128 px), which XLA does in naive loops.
    padded = jnp.pad(x, ((0, 0), (side // 2,) * 2, (side // 2,) * 2, (0, 0)))
    flat = kernel.reshape(-1, kernel.shape[-1])
    return jnp.einsum("bhwc,cd->bhwd", _windows(padded, side), flat)


def conv_downsample(x: jax.Array, kernel: jax.Array, *_, **__) -> jax.Array:
    """`downsample(conv3x3(x))` in 4/9 of its multiplications.

    Pooling after a 3x3 convolution is a 4x4 one of stride 2, whose kernel is the mean of
    the four shifted 3x3 ones; on 2x2 pixels gathered into channels that is a 2x2 one.

    Args:
      x: [B, H, W, C].
      kernel: [3, 3, C, D].

    Returns:
      [B, H/2, W/2, D].
    """
    b, h, w, c = x.shape
    if h // 2 * (w // 2) < _FEW_PIXELS:
        return downsample(conv(x, kernel))

    def widen(k):  # 3 taps -> 4
        return [k[0] / 2, (k[0] + k[1]) / 2, (k[1] + k[2]) / 2, k[2] / 2]

    taps = [widen(row) for row in widen(kernel)]  # [4][4], each [C, D]
    # In the order [row, column, y, x, C, D] of the 2x2 kernel over gathered pixels.
    order = [
        taps[2 * row + y][2 * column + x]
        for row in (0, 1)
        for column in (0, 1)
        for y in (0, 1)
        for x in (0, 1)
    ]
    kernel = jnp.concatenate(order).reshape(2, 2, 4 * c, -1)
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    x = x.reshape(b, h // 2 + 1, 2, w // 2 + 1, 2, c).transpose(0, 1, 3, 2, 4, 5)
    return _conv(x.reshape(b, h // 2 + 1, w // 2 + 1, 4 * c), kernel, "VALID")


def upsample_conv(x: jax.Array, kernel: jax.Array, *_, **__) -> jax.Array:
    """`conv3x3(upsample(x))` in 4/9 of its multiplications.

    Of the doubled pixels a 3x3 window sees, those of one source pixel share their value:
    each of the four phases of the output is a 2x2 convolution of the source.

    Args:
      x: [B, H, W, C].
      kernel: [3, 3, C, D].

    Returns:
      [B, 2H, 2W, D].
    """
    b, h, w, c = x.shape
    d = kernel.shape[-1]
    if h * w < _FEW_PIXELS:
        return conv(upsample(x), kernel)

    def merge(k):  # 3 taps -> [tap][phase]
        return [[k[0], k[0] + k[1]], [k[1] + k[2], k[2]]]

    rows = [[merge(phase) for phase in tap] for tap in merge(kernel)]
    kernel = jnp.stack(
        [
            jnp.concatenate([rows[i][p][j][q] for p in (0, 1) for q in (0, 1)], -1)
            for i in (0, 1)
            for j in (0, 1)
        ]
    )  # [2 x 2, C, 4 (phase y, phase x) x D]
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    windows = _conv(padded, kernel.reshape(2, 2, c, 4 * d), "VALID")
    windows = windows.reshape(b, h + 1, w + 1, 2, 2, d)
    phases = [
        [windows[:, i : i + h, j : j + w, i, j] for j in (0, 1)] for i in (0, 1)
    ]  # each [B, H, W, D]
    rows = jnp.stack([jnp.stack(row, 3) for row in phases], 2)  # [B, H, 2, W, 2, D]
    return rows.reshape(b, 2 * h, 2 * w, d)

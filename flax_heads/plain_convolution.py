"""The plain convolution of stride 1, NHWC: XLA's, and on the CPU what is faster there.

Two things are slow in XLA's CPU backend (benchmarks/NOTES.md). The gradient of the
kernel runs at a third of the speed of the convolution. And bfloat16 is computed in
float32, though matrix products reach a CPU's bfloat16 units: there all is products.
On every other backend this is XLA's convolution alone.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator

import jax
import jax.numpy as jnp

_NARROW = 32  # fewer channels gain nothing from products, nor from parts
_WIDE = 256  # output channels from which on float32 gains as well, for the kernel
# Numbers of input from which on XLA's gradient of the kernel falls behind.
_LARGE = 2**18
# Pixels in one bfloat16 product. More copy slowly, fewer are many and compile slowly.
_PIXELS = 2**12


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def conv(x: jax.Array, kernel: jax.Array, padding: str) -> jax.Array:
    """[B, H, W, C], [s, s, C, D] -> [B, H', W', D], padding "SAME" or "VALID"."""
    if _as_products(x, kernel):
        return _product(_padded(x, kernel, padding), kernel)
    return _xla_conv(x, kernel, padding)


def windows(x: jax.Array, side: int) -> jax.Array:
    """What a kernel sees at each pixel: [B, H, W, C] -> [B, H', W', side x side x C]."""
    return jnp.concatenate(list(_shifted(x, side)), -1)


def _conv_forward(x, kernel, padding):
    return conv(x, kernel, padding), (x, kernel)


def _conv_backward(padding, inputs, gradient):
    x, kernel = inputs
    _, pull_back = jax.vjp(lambda x, k: _xla_conv(x, k, padding), x, kernel)
    of_x, of_kernel = pull_back(gradient)  # what is not used is not computed
    if not _on_cpu():
        return of_x, of_kernel
    padded = _padded(x, kernel, padding)
    if _as_products(x, kernel):
        reach = kernel.shape[0] - 1
        around = _pad(gradient, reach // 2 if padding == "SAME" else reach)
        of_x = _product(around, kernel[::-1, ::-1].swapaxes(2, 3))
        of_kernel = _kernel_gradient_of_products(padded, kernel, gradient)
    elif kernel.shape[-1] >= _WIDE:
        of_kernel = _kernel_gradient_by_taps(padded, kernel, gradient)
    else:
        of_kernel = _kernel_gradient_in_parts(x, kernel, gradient, padding)
    return of_x, of_kernel.astype(kernel.dtype)


conv.defvjp(_conv_forward, _conv_backward)


def _on_cpu() -> bool:
    return jax.default_backend() == "cpu"


def _as_products(x, kernel) -> bool:
    # A program for any number of images is an exported one, for other machines too.
    ours = _on_cpu() and isinstance(x.shape[0], int)
    return ours and x.dtype == jnp.bfloat16 and min(kernel.shape[2:]) >= _NARROW


def _xla_conv(x, kernel, padding):
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def _pad(x, edge):
    return jnp.pad(x, ((0, 0), (edge, edge), (edge, edge), (0, 0)))


def _padded(x, kernel, padding):
    return _pad(x, kernel.shape[0] // 2 if padding == "SAME" else 0)


def _shifted(x, side) -> Iterator[jax.Array]:
    """The parts [B, H', W', C] that each tap of a kernel sees, in order."""
    h, w = x.shape[1] - side + 1, x.shape[2] - side + 1
    for i in range(side):
        for j in range(side):
            yield x[:, i : i + h, j : j + w]


def _product(x, kernel):
    """The convolution of padded images: windows times kernel, summed in float32."""
    side, _, _, d = kernel.shape
    pixels = (x.shape[1] - side + 1) * (x.shape[2] - side + 1)
    some = max(1, _PIXELS // pixels)  # images at a time
    parts = [
        jnp.einsum(
            "bhwc,cd->bhwd",
            windows(x[i : i + some], side),
            kernel.reshape(-1, d),
            preferred_element_type=jnp.float32,
        )
        for i in range(0, len(x), some)
    ]
    return jnp.concatenate(parts).astype(x.dtype)


def _kernel_gradient_of_products(x, kernel, gradient):
    """Of `_product`: gradient times windows, of equal parts of the images, in float32."""
    side, _, c, d = kernel.shape
    b, h, w, _ = gradient.shape
    divisors = [n for n in range(1, b + 1) if b % n == 0]
    some = max(n for n in divisors if n == 1 or n * h * w <= _PIXELS)
    product = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)
    if some == b:  # turning the one gradient would be undone by the compiler
        taps = [product("bhwc,bhwd->cd", seen, gradient) for seen in _shifted(x, side)]
        return jnp.stack(taps).reshape(kernel.shape)
    turned = gradient.reshape(b // some, -1, d).swapaxes(1, 2)  # [parts, D, pixels]
    turned = jax.lax.optimization_barrier(turned)
    total = sum(
        product("dp,pk->dk", part, windows(seen, side).reshape(some * h * w, -1))
        for part, seen in zip(turned, jnp.split(x, b // some), strict=True)
    )
    # Without the barriers each product would be turned, not their sum.
    total = jax.lax.optimization_barrier(total)
    return total.reshape(d, side, side, c).transpose(1, 2, 3, 0)


def _kernel_gradient_by_taps(x, kernel, gradient):
    """A product for each tap; the gradient is turned once, as XLA does so slowly."""
    side, _, c, d = kernel.shape
    turned = jax.lax.optimization_barrier(gradient.reshape(-1, d).T)  # [D, pixels]
    taps = jnp.stack([turned @ seen.reshape(-1, c) for seen in _shifted(x, side)])
    taps = jax.lax.optimization_barrier(taps)  # [s x s, D, C]; else each is turned
    return taps.swapaxes(1, 2).reshape(kernel.shape)


def _kernel_gradient_in_parts(x, kernel, gradient, padding):
    """XLA's own over some images at a time, as it slows down with their number."""

    def by_xla(x, gradient):
        return jax.vjp(lambda k: _xla_conv(x, k, padding), kernel)[1](gradient)[0]

    b = len(x)
    parts = min(b, 8, max(1, x.size // _LARGE))
    if min(kernel.shape[2:]) < _NARROW:
        parts = 1
    some = -(-b // parts)
    return sum(
        by_xla(x[i : i + some], gradient[i : i + some]) for i in range(0, b, some)
    )

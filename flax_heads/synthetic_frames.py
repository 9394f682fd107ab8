"""The synthetic heads of `data_pipeline.synthetic`, many frames at once by JAX.

The maths is the same (`data_pipeline.synthetic_frame`), so are the pictures, but for
rounding; here it is compiled, and an accelerator draws it.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from data_pipeline import synthetic_paint as painting
from data_pipeline.synthetic_frame import draw_frame
from data_pipeline.synthetic_head import build_head
from data_pipeline.synthetic_person import Params


def stack_people(identities: Sequence[Params]) -> dict:
    """What `render_frames` needs to know of N people, arrays [N, ...] in a tree.

    About 1 MB a person, made by NumPy: some 15 ms each.
    """
    people = [
        {
            "params": {
                name: np.asarray(value, np.float32)
                for name, value in identity.items()
                if not isinstance(value, str)
            },
            "head": build_head(identity),
        }
        for identity in identities
    ]
    return jax.tree.map(lambda *leaves: np.stack(leaves), *people)


@functools.partial(jax.jit, static_argnames=("size", "supersample", "at_once"))
def render_frames(
    people: dict,
    who: jax.Array,
    motion: Mapping[str, jax.Array],
    *,
    size: int,
    supersample: int = 2,
    at_once: int = 1,
) -> tuple[jax.Array, jax.Array]:
    """Draws F frames, each of any of the people in any motion.

    Another person's motion under the same `who` is cross-reenactment, with truth.

    Args:
      people: from `stack_people`; on the device, if it is to be used again.
      who: int [F], rows of `people`.
      motion: arrays [F], see `synthetic_motion`.
      size: side of the frames in pixels.
      supersample: rays per pixel, per axis.
      at_once: frames drawn side by side: 1 is best for a CPU, as many as fit (about
        100 MB each at 256 pixels) for an accelerator.

    Returns:
      frames: uint8 [F, size, size, 3] RGB.
      landmarks: float32 [F, 68, 2], (x, y) pixels, iBUG order.
    """

    def draw(frame):
        row, m = frame
        person = jax.tree.map(lambda leaf: jnp.asarray(leaf)[row], people)
        p = person["params"]
        backdrop = painting.backdrop(p, size * supersample)
        hold = jax.lax.optimization_barrier
        with jax.default_matmul_precision(
            "highest"
        ):  # no TF32: the same on any machine
            return draw_frame(p, person["head"], m, backdrop, size, supersample, hold)

    motion = {key: jnp.asarray(values, jnp.float32) for key, values in motion.items()}
    return jax.lax.map(draw, (jnp.asarray(who), motion), batch_size=at_once)

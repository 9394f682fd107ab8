"""A talking head as one StableHLO file that draws without this project.

Whoever has JAX loads it so, on any machine:

    import jax
    from jax import export
    draw = jax.jit(export.deserialize(open("head.stablehlo", "rb").read()).call)
    frames = draw(rasters)  # uint8 [B, size, size, 3], any B

The JSON file beside it says what the rasters must look like.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import export

from data_pipeline.errors import InputError
from data_pipeline.images import one_line
from data_pipeline.outputs import whole_file
from flax_heads.talking_head import TalkingHead, draw_frames

_FORMAT = 1


def export_stablehlo(
    head: TalkingHead,
    output: str | os.PathLike,
    platforms: Sequence[str] = ("cpu", "cuda", "tpu"),
) -> pathlib.Path:
    """Writes the drawing of rasters, weights and psi' inside, and a JSON description.

    The computing type is the head's; see `TalkingHead.with_dtype`.

    Args:
      head: whom it draws.
      output: the file, usually `.stablehlo`; the description gets `.json` added.
      platforms: that the program is lowered for.

    Returns:
      the description's path.

    Raises:
      InputError: `unwritable`.
    """
    module, params, psi = head.on_device
    (batch,) = export.symbolic_shape("b")
    shape = (batch, head.size, head.size, 3)
    program = export.export(
        jax.jit(lambda rasters: draw_frames(module, params, psi, rasters)),
        platforms=platforms,
    )(jax.ShapeDtypeStruct(shape, jnp.uint8))
    description = {
        "format": _FORMAT,
        "size": head.size,
        "raster": dataclasses.asdict(head.style),
        "input": "rasters, uint8 [B, size, size, 3], RGB",
        "output": "frames, uint8 [B, size, size, 3], RGB",
        "dtype": str(jnp.dtype(module.dtype)),
        "platforms": list(platforms),
        "jax": jax.__version__,
        "calling_convention_version": program.calling_convention_version,
        "history": head.history,
    }
    output = pathlib.Path(output)
    beside = output.with_name(f"{output.name}.json")
    try:
        with whole_file(output) as part:
            part.write_bytes(program.serialize())
        with whole_file(beside) as part:
            part.write_text(json.dumps(description, indent=2) + "\n")
    except OSError as error:
        raise InputError(
            f"{output}: cannot be written ({one_line(error)}); check its folder and "
            "the free space",
            "unwritable",
        ) from error
    return beside

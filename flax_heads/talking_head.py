"""A talking head is a value: one person's generator and psi', ready to be driven."""

from __future__ import annotations

import dataclasses
import functools
import json
import pathlib
import zipfile
from collections.abc import Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from PIL import Image

from data_pipeline.errors import InputError
from data_pipeline.raster import RasterStyle, draw_raster
from flax_heads.generator import Generator
from flax_heads.objectives import to_unit_range

_FORMAT = 1
_BATCH = 8


@functools.partial(jax.jit, static_argnums=0)
def _draw(module: Generator, params: Any, psi: jax.Array, rasters: jax.Array):
    """uint8 rasters [B, H, W, 3] -> uint8 frames; compiled once for all heads."""
    everyone = jnp.broadcast_to(psi, (len(rasters), *psi.shape))
    frames = module.apply({"params": params}, to_unit_range(rasters), everyone)
    return ((frames + 1) * 127.5 + 0.5).clip(0, 255).astype(jnp.uint8)


@dataclasses.dataclass(frozen=True)
class TalkingHead:
    """One person, learned.

    Attributes:
      generator: attributes of the `Generator` module (channels and so on).
      params: its parameters, spectral norm folded in.
      psi: float32 [P], the person.
      size: side of the frames in pixels.
      style: how the rasters are drawn that it was trained on.
      landmarks: float32 [T, 68, 2], of the photos, in pixels of their crops.
      photos: uint8 [T, size, size, 3], the photos' crops.
      history: where it comes from: model, step, iterations; free JSON.
    """

    generator: dict[str, Any]
    params: Any
    psi: np.ndarray
    size: int
    style: RasterStyle
    landmarks: np.ndarray
    photos: np.ndarray
    history: dict[str, Any]

    @functools.cached_property
    def _on_device(self) -> tuple[Generator, Any, jax.Array]:
        attributes = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in self.generator.items()
        }
        module = Generator(**attributes)
        return module, jax.device_put(self.params), jnp.asarray(self.psi)

    def draw(self, rasters: np.ndarray) -> np.ndarray:
        """Rasters uint8 [B, size, size, 3] -> frames uint8 [B, size, size, 3]."""
        return np.asarray(_draw(*self._on_device, rasters))

    def animate(self, landmarks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """Draws one frame for each face, streaming.

        Args:
          landmarks: float [68, 2] each, in pixels of this head's crop; see
            `animate.drive` for another person's.

        Yields:
          uint8 [size, size, 3].
        """
        pending: list[np.ndarray] = []
        for points in landmarks:
            pending.append(draw_raster(np.asarray(points), self.size, self.style))
            if len(pending) == _BATCH:
                yield from self.draw(np.stack(pending))
                pending.clear()
        if pending:
            # Padded to the compiled batch: the last one must not compile anew.
            padded = pending + pending[-1:] * (_BATCH - len(pending))
            yield from self.draw(np.stack(padded))[: len(pending)]

    def save(self, path: str | pathlib.Path) -> None:
        """Writes a folder: `head.json`, `weights.npz` and the photos as PNG."""
        folder = pathlib.Path(path)
        folder.mkdir(parents=True, exist_ok=True)
        arrays = {
            f"params/{k}": v for k, v in flatten_dict(self.params, sep="/").items()
        }
        arrays |= {"psi": self.psi, "landmarks": self.landmarks}
        np.savez(
            folder / "weights.npz", **{k: np.asarray(v) for k, v in arrays.items()}
        )
        for i, photo in enumerate(self.photos):
            Image.fromarray(photo).save(folder / f"photo_{i:03d}.png")
        description = {
            "format": _FORMAT,
            "generator": self.generator,
            "size": self.size,
            "raster": dataclasses.asdict(self.style),
            "num_photos": len(self.photos),
            "history": self.history,
        }
        # Last, so that a folder with a description is a complete one.
        (folder / "head.json").write_text(json.dumps(description, indent=2) + "\n")

    @classmethod
    def load(cls, path: str | pathlib.Path) -> TalkingHead:
        """Reads what `save` wrote. Nothing in it is executed: JSON, PNG, plain arrays.

        Raises:
          InputError: not a head, a damaged one, or one of a newer format.
        """
        folder = pathlib.Path(path)
        remedy = "expected a folder written by `flax-heads finetune --output`"
        if not (folder / "head.json").is_file():
            raise InputError(f"{path}: is not a talking head; {remedy}", "not_a_head")
        try:
            description = json.loads((folder / "head.json").read_text())
            if description["format"] != _FORMAT:
                raise InputError(
                    f"{path}: head of format {description['format']}, this version "
                    f"reads {_FORMAT}; make it again with `flax-heads finetune`",
                    "other_format",
                )
            with (
                (folder / "weights.npz").open("rb") as file,
                np.load(file, allow_pickle=False) as stored,
            ):
                arrays = {name: stored[name] for name in stored.files}
            params = {
                name.removeprefix("params/"): array
                for name, array in arrays.items()
                if name.startswith("params/")
            }
            photos = [
                np.asarray(Image.open(folder / f"photo_{i:03d}.png").convert("RGB"))
                for i in range(description["num_photos"])
            ]
            return cls(
                generator=description["generator"],
                params=unflatten_dict(params, sep="/"),
                psi=arrays["psi"],
                size=int(description["size"]),
                style=RasterStyle(**description["raster"]),
                landmarks=arrays["landmarks"],
                photos=np.stack(photos),
                history=description["history"],
            )
        except InputError:
            raise
        except (OSError, KeyError, ValueError, TypeError, zipfile.BadZipFile) as error:
            raise InputError(
                f"{path}: damaged talking head ({error}); {remedy}", "damaged"
            ) from error

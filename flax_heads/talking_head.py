"""A talking head is a value: one person's generator and psi', ready to be driven."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import os
import pathlib
import shutil
import uuid
from collections.abc import Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from PIL import Image

from data_pipeline import safe_files
from data_pipeline.errors import InputError
from data_pipeline.images import Limits, one_line, read_image
from data_pipeline.raster import RasterStyle, draw_raster
from flax_heads.generator import Generator
from flax_heads.objectives import to_unit_range

MAX_BYTES = 2**32  # of the arrays of a saved head
_FORMAT = 1
BATCH = 8  # frames drawn at once
_MAX_PHOTOS = 10_000


@functools.partial(jax.jit, static_argnums=0)
def draw_frames(
    module: Generator, params: Any, psi: jax.Array, rasters: jax.Array
) -> jax.Array:
    """Rasters uint8 [B, H, W, 3] -> frames uint8; compiled once for all heads.

    Args:
      module: the generator.
      params: with spectral norm folded in.
      psi: float [P].
      rasters: as `raster.draw_raster` draws them.
    """
    everyone = jnp.broadcast_to(psi, (rasters.shape[0], *psi.shape))
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

    @property
    def module(self) -> Generator:
        """The network that `params` belong to."""
        attributes = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in self.generator.items()
        }
        return Generator(**attributes)

    @functools.cached_property
    def on_device(self) -> tuple[Generator, Any, jax.Array]:
        """The first arguments of `draw_frames`; kernels in the computing type."""
        module = self.module

        def cast(leaf):  # scales and biases stay float32, as psi' does
            return jnp.asarray(leaf, module.dtype if leaf.ndim > 1 else None)

        return module, jax.tree.map(cast, self.params), jnp.asarray(self.psi)

    def with_dtype(self, dtype: str) -> TalkingHead:
        """The same head computing in "float32" or "bfloat16", which GPUs do faster.

        Norms' statistics and the softmax stay float32, and so does what `save` writes.
        """
        return dataclasses.replace(self, generator=self.generator | {"dtype": dtype})

    def is_finite(self) -> bool:
        """Whether its numbers are, and most iterations that led to them were."""
        leaves = jax.tree.leaves((self.params, self.psi))
        run = self.history.get("iterations_run", 0)
        half = self.history.get("best_iteration", run) / 2
        return self.history.get("not_finite", 0) <= half and all(
            np.isfinite(leaf).all() for leaf in leaves
        )

    def draw(self, rasters: np.ndarray) -> np.ndarray:
        """Rasters uint8 [B, size, size, 3] -> frames uint8 [B, size, size, 3]."""
        return np.asarray(draw_frames(*self.on_device, rasters))

    def animate(self, landmarks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """Draws one frame for each face, streaming, two batches behind its driver.

        Args:
          landmarks: float [68, 2] each, in pixels of this head's crop; see
            `animate.drive` for another person's.

        Yields:
          uint8 [size, size, 3].
        """
        # One batch is drawn by the device while the next is prepared here.
        drawn, count = None, 0
        for batch in batches(landmarks, BATCH):
            rasters = [draw_raster(np.asarray(p), self.size, self.style) for p in batch]
            # Padded to the compiled batch: the last one must not compile anew.
            rasters += rasters[-1:] * (BATCH - len(batch))
            frames = draw_frames(*self.on_device, np.stack(rasters))
            if drawn is not None:
                yield from np.asarray(drawn)
            drawn, count = frames, len(batch)
        if drawn is not None:
            yield from np.asarray(drawn)[:count]

    def save(self, path: str | pathlib.Path) -> None:
        """Writes a folder: `head.json`, `weights.npz` and the photos as PNG.

        It appears complete or not at all. Where the folder exists, its head is replaced,
        photos and all, and its other files stay.

        Raises:
          InputError: `unwritable`, or `not_finite`: learning went astray.
        """
        if not self.is_finite():
            raise InputError(
                f"{path}: not saved, for learning did not stay finite; learn in float32, "
                "with fewer iterations or a smaller rate",
                "not_finite",
            )
        check_output(path)
        folder = pathlib.Path(path).resolve()  # "." has no name
        part = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}.part")
        try:
            part.mkdir(parents=True)
            self._write(part)
            try:
                part.rename(folder)  # where there is nothing, or an empty folder
            except OSError:
                # A folder without a description is no head: last in, first out.
                before = _num_photos(folder)
                (folder / "head.json").unlink(missing_ok=True)
                for file in sorted(part.iterdir(), key=lambda f: f.name == "head.json"):
                    file.replace(folder / file.name)
                for i in range(len(self.photos), before):
                    (folder / f"photo_{i:03d}.png").unlink(missing_ok=True)
        except OSError as error:
            raise InputError(
                f"{path}: cannot be written ({one_line(error)}); check the free space "
                "and the rights of its folder",
                "unwritable",
            ) from error
        finally:
            shutil.rmtree(part, ignore_errors=True)

    def _write(self, folder: pathlib.Path) -> None:
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
        (folder / "head.json").write_text(json.dumps(description, indent=2) + "\n")

    @classmethod
    def load(
        cls,
        path: str | pathlib.Path,
        limits: Limits | None = None,
        max_bytes: int = MAX_BYTES,
    ) -> TalkingHead:
        """Reads what `save` wrote. Nothing in it is executed: JSON, PNG, plain arrays.

        Args:
          limits: what a photo in the folder may ask for.
          max_bytes: that the arrays may take.

        Raises:
          InputError: not a head, a damaged one, or one of a newer format.
        """
        folder = pathlib.Path(path)
        remedy = "expected a folder written by `flax-heads finetune --output`"
        if not (folder / "head.json").is_file():
            raise InputError(f"{path}: is not a talking head; {remedy}", "not_a_head")
        try:
            description = safe_files.read_json(folder / "head.json")
            if description["format"] != _FORMAT:
                raise InputError(
                    f"{path}: head of format {description['format']}, this version "
                    f"reads {_FORMAT}; make it again with `flax-heads finetune`",
                    "other_format",
                )
            arrays = safe_files.read_npz(folder / "weights.npz", max_bytes)
            params = {
                name.removeprefix("params/"): array
                for name, array in arrays.items()
                if name.startswith("params/")
            }
            num_photos = int(description["num_photos"])
            if not 0 < num_photos <= _MAX_PHOTOS:
                raise ValueError(f"{num_photos} photos")
            size = int(description["size"])
            if not 16 <= size <= 4096:
                raise ValueError(f"frames of {size} px")
            if len(arrays["landmarks"]) != num_photos:
                raise ValueError(f"landmarks of {len(arrays['landmarks'])} photos")
            limits = dataclasses.replace(
                limits or Limits(), max_image_pixels=size**2, min_side=size
            )
            photos = np.stack(
                [
                    read_image(folder / f"photo_{i:03d}.png", limits)
                    for i in range(num_photos)
                ]
            )
            head = cls(
                generator=dict(description["generator"]),
                params=unflatten_dict(params, sep="/"),
                psi=arrays["psi"],
                size=size,
                style=RasterStyle(**description["raster"]),
                landmarks=arrays["landmarks"],
                photos=photos,
                history=description["history"],
            )
            head._validate()
            return head
        # Values from a file fail wherever they are first used, in Flax and JAX, too.
        except Exception as error:
            if isinstance(error, InputError) and error.reason == "other_format":
                raise
            said = str(error) if isinstance(error, InputError) else one_line(error)
            raise InputError(
                f"{path}: damaged talking head ({said}); {remedy}", "damaged"
            ) from error

    def _validate(self) -> None:
        """Raises unless the parts fit together, so that `draw` will not."""
        count = len(self.photos)
        if self.photos.shape != (count, self.size, self.size, 3):
            raise ValueError(f"photos {self.photos.shape} in a head of {self.size} px")
        if self.landmarks.shape != (count, 68, 2):
            raise ValueError(f"landmarks {self.landmarks.shape} of {count} photos")
        leaves = jax.tree.leaves(self.params)
        for array in (self.psi, self.landmarks, *leaves):
            if array.dtype != np.float32 or not np.isfinite(array).all():
                raise ValueError("numbers that are not finite float32")
        draw_raster(self.landmarks[0], 16, self.style)  # refuses other versions
        # Bounded by what is there, before a network is built from mere numbers.
        for value in jax.tree.leaves(self.generator):
            if isinstance(value, int | float) and abs(value) > self.psi.size:
                raise ValueError(f"a generator with {value:g} of something")
        if self.generator.get("num_residual_blocks", 0) > len(leaves):
            raise ValueError("fewer weights than blocks")
        module = self.module
        hash(module)  # `draw` needs it
        if self.psi.shape != (module.psi_size,):
            raise ValueError(f"psi of {self.psi.shape}, expected {module.psi_size}")
        frames = jax.eval_shape(
            lambda rasters, psi: module.apply({"params": self.params}, rasters, psi),
            jax.ShapeDtypeStruct((1, self.size, self.size, 3), np.float32),
            jax.ShapeDtypeStruct((1, module.psi_size), np.float32),
        )
        if frames.shape != (1, self.size, self.size, 3):
            raise ValueError(f"a generator of frames {frames.shape}")


def _num_photos(folder: pathlib.Path) -> int:
    """How many photos are the head's that lies there; 0 if that is unknown."""
    try:
        description = safe_files.read_json(folder / "head.json")
        return min(int(description["num_photos"]), _MAX_PHOTOS)
    except (OSError, ValueError, KeyError, TypeError):
        return 0


def check_output(path: str | pathlib.Path) -> None:
    """Tells before a head is learned that it could not be saved as `path`.

    Raises:
      InputError: `unwritable`: a file is in the way, a folder of somebody's pictures, or
        one in which nothing can be written.
    """
    folder = pathlib.Path(path).resolve()
    parents = [p for p in (folder, *folder.parents) if p.exists()]
    problem = ""
    if not parents[0].is_dir():
        problem = f"{parents[0]} is a file"
    elif not os.access(parents[0], os.W_OK):
        problem = "its folder may not be written to"
    elif any(folder.glob("photo_[0-9][0-9][0-9].png")) and not (
        (folder / "weights.npz").exists() or (folder / "head.json").exists()
    ):
        problem = "it holds photos that a head's would replace"
    if problem:
        raise InputError(
            f"{path}: cannot be written, {problem}; name another folder", "unwritable"
        )


def batches(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """Lists of `size` items, the last perhaps shorter, as the items come."""
    iterator = iter(items)
    while batch := list(itertools.islice(iterator, size)):
        yield batch

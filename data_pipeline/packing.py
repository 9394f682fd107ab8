"""Many small images in one file that is whole or absent, and never a pickle."""

from __future__ import annotations

import io
import itertools
import os
import pathlib
from collections.abc import Sequence

import numpy as np
from PIL import Image

from data_pipeline.outputs import whole_file


def encode_jpeg(frame: np.ndarray, quality: int = 95) -> bytes:
    """uint8 [H, W, 3] as JPEG; 4:4:4, since lips and eyes are small and coloured."""
    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, "JPEG", quality=quality, subsampling=0)
    return buffer.getvalue()


def decode_jpeg(blob: bytes, size: int) -> np.ndarray:
    """The inverse of `encode_jpeg` for a square of `size`, up to its losses.

    Raises:
      ValueError: damaged, or of another size, which is seen before it is decoded.
    """
    try:
        with Image.open(io.BytesIO(blob), formats=["JPEG"]) as image:
            if image.size != (size, size):
                raise ValueError(f"a frame of {image.size}, not of {size} px")
            return np.asarray(image.convert("RGB"))
    except ValueError:
        raise
    except Exception as error:  # Pillow's decoders raise nearly anything
        raise ValueError(f"a damaged frame ({error})") from error


def pack(blobs: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray]:
    """Byte strings as one uint8 array and their int64 sizes."""
    sizes = np.array([len(blob) for blob in blobs], np.int64)
    return np.frombuffer(b"".join(blobs), np.uint8), sizes


def unpack(data: np.ndarray, sizes: np.ndarray) -> list[bytes]:
    """The inverse of `pack`."""
    if np.min(sizes, initial=0) < 0 or np.sum(sizes) != len(data):
        raise ValueError("the sizes do not add up to the stored bytes")
    data = data.tobytes()
    return [data[a:b] for a, b in itertools.pairwise(offsets(sizes))]


def save_npz(path: str | os.PathLike, **arrays: np.ndarray) -> None:
    """`np.savez` that leaves a whole file or none, also when it is killed."""
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as part, open(part, "wb") as file:
        np.savez(file, **arrays)


def offsets(sizes: Sequence[int]) -> np.ndarray:
    """int64 [V + 1] of [V] lengths."""
    return np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)]).astype(np.int64)

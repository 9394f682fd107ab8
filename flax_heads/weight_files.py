"""Reads other people's files of weights into numpy, without their frameworks.

PyTorch's files are pickles, which may name any function to be called. Here only the
few names that a state dict is made of have a meaning, and none of them runs code.
"""

from __future__ import annotations

import collections
import io
import math
import os
import pathlib
import pickle
import struct
import zipfile
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO, ClassVar, NamedTuple

import ml_dtypes
import numpy as np

from data_pipeline import safe_files
from data_pipeline.errors import InputError

_MAGIC = 0x1950A86A20F9469CFC6C  # the first pickle of a file older than PyTorch 1.6
_WRAPPERS = ("state_dict", "model", "params")
_DTYPES = {
    "DoubleStorage": np.dtype("<f8"),
    "FloatStorage": np.dtype("<f4"),
    "HalfStorage": np.dtype("<f2"),
    "BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "LongStorage": np.dtype("<i8"),
    "IntStorage": np.dtype("<i4"),
    "ShortStorage": np.dtype("<i2"),
    "CharStorage": np.dtype("i1"),
    "ByteStorage": np.dtype("u1"),
    "BoolStorage": np.dtype("?"),
}


def read_tensors(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """All tensors of a file, by name; the content tells its kind, not its ending.

    - PyTorch (`torch.save` of a state dict, before and since 1.6). Tensors of an inner
      dict are called `key.name`; under the key `state_dict`, `model` or `params` just
      `name`. What is not a tensor, or lies deeper, is left out.
    - `.safetensors`, `.npz`.
    - Keras `.h5`: every dataset of numbers, by its path in the file.

    Returns:
      arrays of the file's own types (bfloat16 as `ml_dtypes.bfloat16`), perhaps
      read-only and sharing memory.

    Raises:
      InputError: the file is unreadable, broken, of another kind, empty of tensors, or
        a pickle of more than tensors; or the library that reads it is not installed.
    """
    path = pathlib.Path(path)
    try:
        tensors = _reader(path)(path)
    except InputError:
        raise
    except OSError as error:
        reason = error.strerror or " ".join(str(error).split())
        raise InputError(f"{path}: cannot be read ({reason})", "bad_weights") from error
    except Exception as error:  # parsers of a broken file may raise anything
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise InputError(
            f"{path}: broken, cut short or not a file of weights ({reason:.200}); "
            "get it again",
            "bad_weights",
        ) from error
    if not tensors:
        raise InputError(f"{path}: holds no tensors", "bad_weights")
    return tensors


def read_expected(
    path: str | os.PathLike, shapes: Mapping[str, tuple[int, ...]], wanted: str
) -> dict[str, np.ndarray]:
    """The tensors named in `shapes`, float32; `wanted` is the file that has them.

    Raises:
      InputError: an unreadable file, or a tensor that is missing, of another shape or
        not finite; the message names the first such.
    """
    tensors = read_tensors(path)
    for name, shape in shapes.items():
        if name not in tensors:
            problem = "is missing"
        elif tensors[name].shape != shape:
            problem = f"is {tensors[name].shape} where {shape} is expected"
        elif not np.isfinite(tensors[name]).all():
            problem = "is not finite"
        else:
            continue
        raise InputError(
            f"{path}: its tensor {name} {problem}; get {wanted}", "bad_weights"
        )
    return {name: tensors[name].astype(np.float32) for name in shapes}


def _reader(path: pathlib.Path) -> Callable[[pathlib.Path], dict[str, np.ndarray]]:
    with open(path, "rb") as file:
        start = file.read(9)
    if start.startswith(b"PK\3\4"):
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
        return _read_npz if any(n.endswith(".npy") for n in names) else _read_torch_zip
    if start.startswith(b"\x89HDF\r\n\x1a\n"):
        return _read_h5
    if start[8:] == b"{":
        return _read_safetensors
    if start.startswith(b"\x80"):
        return _read_torch_legacy
    raise _unknown(path)


def _unknown(path: pathlib.Path) -> InputError:
    return InputError(
        f"{path}: not a file of weights that can be read (PyTorch .pth, .safetensors, "
        ".npz or Keras .h5)",
        "bad_weights",
    )


def _most_bytes(path: pathlib.Path) -> int:
    """That a file may unpack to: weights hardly compress, and bombs do."""
    return 8 * path.stat().st_size + 2**20


def _read_npz(path: pathlib.Path) -> dict[str, np.ndarray]:
    return safe_files.read_npz(path, _most_bytes(path))


def _read_safetensors(path: pathlib.Path) -> dict[str, np.ndarray]:
    try:
        from safetensors.numpy import load_file
    except ImportError as error:
        raise _missing(path, "safetensors") from error
    return load_file(path)


def _read_h5(path: pathlib.Path) -> dict[str, np.ndarray]:
    try:
        import h5py
    except ImportError as error:
        raise _missing(path, "h5py") from error
    tensors, left = {}, _most_bytes(path)

    def visit(name: str, item: Any) -> None:
        if not isinstance(item, h5py.Dataset) or item.dtype.kind not in "fiu":
            return
        # HDF5 can take a dataset's values from any other file of this machine.
        if item.external or item.is_virtual:
            raise InputError(
                f"{path}: its dataset {name} points to another file", "bad_weights"
            )
        nonlocal left
        left -= item.nbytes
        if left < 0:  # chunks that were never written take no room in the file
            raise ValueError(f"unpacks to far more than it holds (dataset {name})")
        tensors[name] = item[()]

    with h5py.File(path, "r") as file:
        file.visititems(visit)
    return tensors


def _missing(path: pathlib.Path, library: str) -> InputError:
    return InputError(
        f"{path}: reading it needs the library {library}: "
        'pip install "flax-heads[eval]"',
        "missing_library",
    )


class _Storage(NamedTuple):
    """A piece of one of the file's one-dimensional buffers; numbers are elements."""

    key: str
    dtype: np.dtype
    offset: int
    size: int


class _Tensor(NamedTuple):
    """Where a tensor lies; both formats have the values outside of the pickle."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _UpToTheEnd:
    """A file whose `read` never asks for more than there is: Python would make room."""

    def __init__(self, file: BinaryIO):
        self._file, self.readline = file, file.readline
        place = file.tell()
        self._end = file.seek(0, os.SEEK_END)
        file.seek(place)

    def read(self, size: int) -> bytes:
        return self._file.read(min(size, self._end - self._file.tell()))


# The one in Python: a few bytes can make the one in C fill the memory.
class _Unpickler(pickle._Unpickler):
    """Knows the names of a state dict and no others.

    A pickle can call what `find_class` returns and set its attributes. Everything here
    is harmless to call, and immutable or made anew each time.
    """

    # All other opcodes read from the file; this one makes room for what it asks for.
    dispatch: ClassVar = {
        opcode: load
        for opcode, load in pickle._Unpickler.dispatch.items()
        if opcode != pickle.BYTEARRAY8[0]
    }

    def __init__(self, file: BinaryIO, path: pathlib.Path):
        super().__init__(
            _UpToTheEnd(file), encoding="utf-8"
        )  # for keys that Python 2 wrote
        self.path = path
        self.buffers: dict[str, np.dtype] = {}

    def find_class(self, module: str, name: str) -> Any:
        if module in ("torch", "torch.cuda") and name in _DTYPES:
            return name
        match f"{module}.{name}":
            case "collections.OrderedDict":
                return collections.OrderedDict
            case "torch._utils._rebuild_tensor" | "torch._utils._rebuild_tensor_v2":
                return lambda storage, offset, shape, strides, *_: _Tensor(
                    storage, offset, tuple(shape), tuple(strides)
                )
            case "torch._utils._rebuild_parameter":
                return lambda tensor, *_: tensor
        raise InputError(
            f"{self.path}: names {module}.{name}, which no file of mere tensors needs; "
            "it was not loaded. If you trust it, save its state_dict() alone",
            "unsafe_weights",
        )

    def persistent_load(self, pid: Any) -> _Storage:
        kind, storage_type, key, _, size, *view = pid
        if kind != "storage":
            raise ValueError(f"holds a {kind}")
        offset = 0
        if view and view[0] is not None:
            _, offset, size = view[0]
        dtype = self.buffers.setdefault(key, _DTYPES[storage_type])
        return _Storage(key, dtype, offset, size)


def _read_torch_zip(path: pathlib.Path) -> dict[str, np.ndarray]:
    with zipfile.ZipFile(path) as archive:
        members = {info.filename: info for info in archive.infolist()}
        pickles = [name for name in members if name.endswith("data.pkl")]
        if not pickles:
            raise _unknown(path)
        root = pickles[0][: -len("data.pkl")]

        def read(name: str) -> bytes:
            info = members[root + name]
            if info.compress_type != zipfile.ZIP_STORED:  # it may unpack to terabytes
                raise ValueError(f"{info.filename} is compressed")
            return archive.read(info)

        if root + "byteorder" in members and read("byteorder") != b"little":
            raise ValueError("written by a big-endian machine")
        unpickler = _Unpickler(io.BytesIO(read("data.pkl")), path)
        content = unpickler.load()
        buffers = {
            key: np.frombuffer(read(f"data/{key}"), dtype)
            for key, dtype in unpickler.buffers.items()
        }
    return _named_arrays(content, buffers)


def _read_torch_legacy(path: pathlib.Path) -> dict[str, np.ndarray]:
    """Five pickles in a row, then each buffer: its number of elements, its bytes."""
    with open(path, "rb") as file:
        if _Unpickler(file, path).load() != _MAGIC:
            raise ValueError("a pickle, but not PyTorch's")
        _Unpickler(file, path).load()  # the protocol's version
        if not _Unpickler(file, path).load()["little_endian"]:
            raise ValueError("written by a big-endian machine")
        unpickler = _Unpickler(file, path)
        content = unpickler.load()
        keys = _Unpickler(file, path).load()
        left = os.fstat(file.fileno()).st_size - file.tell()
        buffers = {}
        for key in keys:
            dtype = unpickler.buffers[key]
            (size,) = struct.unpack("<q", file.read(8))
            left -= 8 + size * dtype.itemsize
            if size < 0 or left < 0:
                raise ValueError(f"buffer {key} is not complete")
            buffers[key] = np.frombuffer(file.read(size * dtype.itemsize), dtype)
    return _named_arrays(content, buffers)


def _named_arrays(
    content: Any, buffers: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
    if not isinstance(content, dict):
        raise ValueError(f"holds a {type(content).__name__}, not a state dict")
    tensors: dict[str, np.ndarray] = {}

    def add(name: str, tensor: _Tensor) -> None:
        if name in tensors:
            raise ValueError(f"two tensors are called {name}")
        tensors[name] = _array(name, tensor, buffers)

    for key, value in content.items():
        if isinstance(value, _Tensor):
            add(str(key), value)
        elif isinstance(value, dict):
            prefix = "" if key in _WRAPPERS else f"{key}."
            for name, inner in value.items():
                if isinstance(inner, _Tensor):
                    add(f"{prefix}{name}", inner)
    return tensors


def _array(name: str, tensor: _Tensor, buffers: dict[str, np.ndarray]) -> np.ndarray:
    (key, _, start, size), offset, shape, strides = tensor
    buffer = buffers[key]
    if not all(isinstance(n, int) and n >= 0 for n in (*shape, *strides, offset)):
        raise ValueError(f"{name} has an impossible shape")
    count = math.prod(shape)
    last = offset + sum((n - 1) * stride for n, stride in zip(shape, strides))
    outside = count and last >= size
    # Strides of 0 would let a few bytes stand for a tensor of any size.
    if not 0 <= start <= start + size <= buffer.size or count > size or outside:
        raise ValueError(f"{name} does not lie within its buffer")
    if not count:
        return np.zeros(shape, buffer.dtype)
    return np.lib.stride_tricks.as_strided(
        buffer[start + offset :],
        shape,
        [stride * buffer.itemsize for stride in strides],
        writeable=False,
    )

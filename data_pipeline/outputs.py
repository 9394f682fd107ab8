"""Files that appear under their name when they are complete, or not at all."""

from __future__ import annotations

import contextlib
import os
import pathlib
import uuid
from collections.abc import Iterator


@contextlib.contextmanager
def whole_file(path: str | os.PathLike) -> Iterator[pathlib.Path]:
    """Where to write what shall be `path` when the block has ended well.

    An exception leaves nothing behind, and an older file of that name untouched; so does
    a kill, but for a hidden file. What is written to has the suffix of `path`.
    """
    path = pathlib.Path(path)
    part = path.with_name(f".{path.stem}.{uuid.uuid4().hex[:8]}.part{path.suffix}")
    try:
        yield part
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)

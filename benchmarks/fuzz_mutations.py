"""Good files made bad, each in a way that a seed decides: bytes in, bytes out.

Some changes are blind (flipped bits, cuts), others know the format (`fuzz_formats`).
"""

from __future__ import annotations

import struct

import numpy as np

from benchmarks.fuzz_formats import BY_SUFFIX, EXTREMES


def mutate(suffix: str, data: bytes, rng: np.random.Generator) -> tuple[bytes, str]:
    """A mutant of a file, by one to three changes, and what was done to it."""
    own = BY_SUFFIX.get(suffix, ())
    names = []
    for _ in range(int(rng.choice([1, 1, 1, 2, 3]))):
        known = len(own) and rng.random() < 0.6
        chosen = own if known else _BLIND
        mutation = chosen[int(rng.integers(len(chosen)))]
        data = mutation(data, rng)
        names.append(mutation.__name__.strip("_"))
    return data, "+".join(names)


# --- Any file


def _flip_bits(data, rng):
    out = bytearray(data)
    for _ in range(int(2 ** rng.integers(0, 7)) if out else 0):
        out[_place(len(out), rng)] ^= 1 << int(rng.integers(8))
    return bytes(out)


def _cut(data, rng):
    return data[: _place(len(data) + 1, rng)]


def _cut_the_end(data, rng):
    return data[: max(0, len(data) - int(2 ** rng.integers(0, 10)))]


def _overwrite(data, rng):
    start, length = _place(len(data) + 1, rng), int(2 ** rng.integers(0, 12))
    fill = bytes(length) if rng.random() < 0.5 else rng.bytes(length)
    return data[:start] + fill + data[start + length :]


def _delete(data, rng):
    start = _place(len(data) + 1, rng)
    return data[:start] + data[start + int(2 ** rng.integers(0, 12)) :]


def _repeat(data, rng):
    start = _place(len(data) + 1, rng)
    part = data[start : start + int(2 ** rng.integers(0, 12))]
    return data[:start] + part * int(rng.integers(2, 20)) + data[start:]


def _append(data, rng):
    return data + (
        data if rng.random() < 0.3 else rng.bytes(int(rng.integers(1, 5000)))
    )


def _put_number(data, rng):
    value = EXTREMES[int(rng.integers(len(EXTREMES)))]
    number = struct.pack(rng.choice(["<I", ">I"]), value)[: int(rng.choice([1, 2, 4]))]
    start = _place(len(data) + 1, rng)
    return data[:start] + number + data[start + len(number) :]


def _nothing_left(data, rng):
    return data[: int(rng.integers(0, 24))]


def _another_kind(data, rng):
    """Content that its name does not tell."""
    others = (
        b"ffconcat version 1.0\nfile /etc/hostname\n",
        b"#EXTM3U\n#EXTINF:1,\n/etc/hostname\n",
        b"<svg xmlns='http://www.w3.org/2000/svg' width='9999999' height='9999999'/>",
        b"\x80\x04\x95\x0c\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix",
        b"\x89HDF\r\n\x1a\n" + bytes(64),
        b"PK\x05\x06" + bytes(18),
        b"%PDF-1.4\n",
        b"%!PS\n{} loop\n",
    )
    return others[int(rng.integers(len(others)))] + data[: int(rng.integers(0, 100))]


_BLIND = (
    *(_flip_bits, _flip_bits, _cut, _cut_the_end, _overwrite, _delete, _repeat),
    *(_append, _put_number, _put_number, _nothing_left, _another_kind),
)


def _place(length: int, rng) -> int:
    """A position, often near the start or the end, where headers are."""
    if length <= 1:
        return 0
    where, near = rng.random(), int(min(length, 2 ** rng.integers(4, 12)))
    if where < 0.4:
        return int(rng.integers(near))
    if where < 0.5:
        return length - 1 - int(rng.integers(near))
    return int(rng.integers(length))

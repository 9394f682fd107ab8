"""Lies in the headers of known formats, with the checksums put right.

So they get past the first look and reach the code behind it. Bytes in, bytes out.
"""

from __future__ import annotations

import io
import json
import struct
import zipfile
import zlib
from collections.abc import Callable

import numpy as np

Mutation = Callable[[bytes, np.random.Generator], bytes]

EXTREMES = (0, 1, 2, 255, 65535, 2**24, 2**31 - 1, 2**31, 2**32 - 1)
_VALUES = (
    *(None, True, -1, 0, 1, 2, 10**9, 10**30, 1e308, "", "x", "../../etc/passwd"),
    *("9" * 5000, "\0", [], {}, [[]], {"x": 1}, [1, 2, 3], "NaN", 0.5, "float16"),
)


# --- mp4: boxes


def _resize_box(data, rng):
    out, boxes = bytearray(data), _boxes(data)
    if boxes:
        start, _, size = boxes[int(rng.integers(len(boxes)))]
        sizes = (*EXTREMES, 7, 8, 9, size - 1, size + 1, size * 2, size // 2)
        struct.pack_into(">I", out, start, sizes[int(rng.integers(len(sizes)))])
    return bytes(out)


def _lie_in_box(data, rng):
    """Overwrites numbers in a box that describes: counts, sizes, offsets, scales."""
    out = bytearray(data)
    told = [b for b in _boxes(data) if b[1] not in (b"mdat", b"free", b"ftyp")]
    if told:
        start, _, size = told[int(rng.integers(len(told)))]
        for _ in range(int(rng.integers(1, 4))):
            at = start + 8 + 4 * int(rng.integers(0, max(1, min(size, 160) // 4 - 2)))
            if at + 4 <= len(out):
                value = EXTREMES[int(rng.integers(len(EXTREMES)))]
                struct.pack_into(">I", out, at, value)
    return bytes(out)


def _rename_box(data, rng):
    out, boxes = bytearray(data), _boxes(data)
    if boxes:
        start = boxes[int(rng.integers(len(boxes)))][0]
        names = [name for _, name, _ in boxes] + [b"free", b"\0\0\0\0", b"moov"]
        out[start + 4 : start + 8] = names[int(rng.integers(len(names)))]
    return bytes(out)


def _repeat_box(data, rng):
    if not (boxes := _boxes(data)):
        return data
    start, _, size = boxes[int(rng.integers(len(boxes)))]
    box = data[start : start + size] * int(rng.choice([1, 3, 50]))
    return data[:start] + box[: 2**20] + data[start:]


def _boxes(data: bytes, start: int = 0, end: int | None = None) -> list[tuple]:
    """(start, name, size) of all boxes of an mp4, those in others included."""
    end, found = len(data) if end is None else end, []
    while start + 8 <= end:
        size, name = struct.unpack_from(">I4s", data, start)
        size = size if 8 <= size <= end - start else end - start
        found.append((start, name, size))
        if name in (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"edts", b"dinf"):
            found += _boxes(data, start + 8, start + size)
        start += size
    return found


# --- PNG: chunks with their checksums put right


def _lie_in_chunk(data, rng):
    chunks = _chunks(data)
    if not chunks:
        return data
    i = 0 if rng.random() < 0.6 else int(rng.integers(len(chunks)))
    name, content = chunks[i]
    content = bytearray(content)
    if content:
        at = int(rng.integers(len(content)))
        number = struct.pack(">I", EXTREMES[int(rng.integers(len(EXTREMES)))])
        content[at : at + 4] = number[-int(rng.choice([1, 4])) :]
    chunks[i] = name, bytes(content)
    return _png(chunks)


def _shuffle_chunks(data, rng):
    chunks = _chunks(data)
    for _ in range(2 if chunks else 0):
        i, j = rng.integers(len(chunks), size=2)
        chunks.insert(int(i), chunks[int(j)])
    return _png(chunks)


def _inflate_chunk(data, rng):
    """Little that unpacks to much, as pixels, as text or as a colour profile."""
    much = zlib.compress(bytes(2**26), 9)
    extra = {b"IDAT": much, b"zTXt": b"k\0\0" + much, b"iCCP": b"k\0\0" + much}
    name = rng.choice(list(extra))
    chunks = [c for c in _chunks(data) if c[0] != name]
    return _png([*chunks[:1], (bytes(name), extra[bytes(name)]), *chunks[1:]])


def _chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    chunks, at = [], 8
    while at + 12 <= len(data):
        length, name = struct.unpack_from(">I4s", data, at)
        chunks.append((name, data[at + 8 : at + 8 + length]))
        at += length + 12
    return chunks


def _png(chunks) -> bytes:
    parts = [b"\x89PNG\r\n\x1a\n"]
    for name, content in chunks:
        check = zlib.crc32(name + content)
        parts += [
            struct.pack(">I", len(content)),
            name,
            content,
            struct.pack(">I", check),
        ]
    return b"".join(parts)


# --- JPEG: segments


def _lie_in_segment(data, rng):
    out = bytearray(data)
    starts = [i for i in range(len(data) - 9) if data[i] == 255 and data[i + 1] > 191]
    if starts:
        at = starts[int(rng.integers(len(starts)))] + int(rng.integers(1, 9))
        out[at] = int(rng.choice([0, 1, 2, 3, 4, 8, 127, 128, 255]))
    return bytes(out)


def _repeat_scan(data, rng):
    """A progressive JPEG may pass over its pixels as often as it likes."""
    start = data.rfind(b"\xff\xda")
    if start < 0:
        return data
    scan = data[start : data.rfind(b"\xff\xd9")]
    return (
        data[:start] + scan * int(min(2000, 2**22 // max(len(scan), 1))) + b"\xff\xd9"
    )


# --- npz: members


def _lie_in_array(data, rng):
    """Rewrites one array's header, or the array, in a zip that is in order."""
    arrays = _members(data)
    if not arrays:
        return data
    name = list(arrays)[int(rng.integers(len(arrays)))]
    raw = arrays[name]
    kind = int(rng.integers(8))
    if kind == 0:  # a shape that is not there
        raw = _npy("<f4", rng.choice(["(4000000000,)", "(-1,)", "(68, 2)", "(9,)*9"]))
    elif kind == 1:
        raw = _npy("|O", "(3,)") + b"\x80\x04N." * 3
    elif kind == 2:
        buffer = io.BytesIO()
        shape = tuple(rng.integers(0, 5, int(rng.integers(0, 4))))
        np.save(buffer, rng.normal(size=shape).astype(rng.choice(["f4", "f8", "i1"])))
        raw = buffer.getvalue()
    elif kind == 3:
        raw = _npy("<f4", "(100000000,)") + bytes(
            400_000_000 if rng.random() < 0.3 else 9
        )
    elif kind == 4:
        raw = _npy(
            rng.choice(["[('a', '<f4')]", "'<U9999999'", "'>f8'", "'<c8'"]), "(1,)"
        )
    elif kind == 5 and len(raw) > 200:
        floats = np.frombuffer(raw[128 : 128 + (len(raw) - 128) // 4 * 4], "<f4").copy()
        at = rng.integers(len(floats), size=3)
        floats[at] = rng.choice([np.nan, np.inf, -1e30, 1e30, 0.0], 3)
        raw = raw[:128] + floats.tobytes() + raw[128 + floats.nbytes :]
    elif kind == 6:
        name = rng.choice(["../../evil.npy", "/tmp/evil.npy", "x", name + "/y.npy"])
    else:
        del arrays[name]
        return _zip(arrays)
    return _zip({**arrays, str(name): raw}, compress=True)


def _change_json_in_array(data, rng):
    arrays = _members(data)
    raw = arrays.get("header.npy", b"")
    if b"{" not in raw[100:]:
        return _lie_in_array(data, rng)
    text = _change_json(raw[raw.index(b"{", 100) :], rng)
    buffer = io.BytesIO()
    np.save(buffer, np.frombuffer(text, np.uint8))
    return _zip({**arrays, "header.npy": buffer.getvalue()})


def _same_name_twice(data, rng):
    arrays = _members(data)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, raw in [*arrays.items(), *list(arrays.items())[:1]]:
            archive.writestr(zipfile.ZipInfo(name), raw)
            if archive.NameToInfo:
                archive.NameToInfo.clear()  # which is what it warns of
    return buffer.getvalue()


def _members(data: bytes) -> dict[str, bytes]:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return {name: archive.read(name) for name in archive.namelist()}
    except Exception:
        return {}


def _zip(members: dict[str, bytes], compress: bool = False) -> bytes:
    buffer, how = io.BytesIO(), zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED
    with zipfile.ZipFile(buffer, "w", how) as archive:
        for name, raw in members.items():
            archive.writestr(zipfile.ZipInfo(name), raw, how)
    return buffer.getvalue()


def _npy(dtype: str, shape: str) -> bytes:
    dtype = dtype if dtype.startswith(("'", "[")) else repr(dtype)
    header = f"{{'descr': {dtype}, 'fortran_order': False, 'shape': {shape}, }}"
    header += " " * (-(len(header) + 11) % 64) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode()


# --- Text


def _change_json(data, rng):
    """Puts an odd value somewhere into a JSON text, or takes something out."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return data
    if rng.random() < 0.05:
        return b"[" * 100_000
    places = list(_json_places(value))
    if not places:
        return b"null"
    holder, key = places[int(rng.integers(len(places)))]
    if rng.random() < 0.2:
        del holder[key]
    else:
        odd = int(rng.integers(len(_VALUES) + 1))
        holder[key] = _VALUES[odd] if odd < len(_VALUES) else float("inf")
    return json.dumps(value).encode()


def _json_places(value):
    """(container, key) of every value in a JSON value."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in list(items):
        yield value, key
        if isinstance(inner, dict | list):
            yield from _json_places(inner)


def _change_words(data, rng):
    odd = (
        *("nan", "inf", "-inf", "1e999", "-5", "0", "9" * 30, "9" * 5000, "1e300"),
        *("\u0663", "1_0", "0x10", "FRAME", "", "\0", "\ud7ff", "x" * 10_000),
    )
    words = data.decode("utf-8", "replace").split(" ")
    for _ in range(int(rng.integers(1, 6))):
        words[int(rng.integers(len(words)))] = odd[int(rng.integers(len(odd)))]
    return " ".join(words).encode("utf-8", "replace")


def _repeat_lines(data, rng):
    lines = data.split(b"\n")
    start = int(rng.integers(len(lines)))
    return b"\n".join(lines[:start] + lines[start:] * int(rng.choice([0, 2, 500])))


BY_SUFFIX: dict[str, tuple[Mutation, ...]] = {
    ".mp4": (_resize_box, _lie_in_box, _lie_in_box, _rename_box, _repeat_box),
    ".mov": (_resize_box, _lie_in_box, _lie_in_box, _rename_box, _repeat_box),
    ".png": (_lie_in_chunk, _lie_in_chunk, _shuffle_chunks, _inflate_chunk),
    ".jpg": (_lie_in_segment, _lie_in_segment, _repeat_scan),
    ".npz": (_lie_in_array, _lie_in_array, _change_json_in_array, _same_name_twice),
    ".json": (_change_json,),
    ".txt": (_change_words, _repeat_lines),
}

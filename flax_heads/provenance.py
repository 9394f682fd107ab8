"""What every video and picture that a head draws says of itself: that it is synthetic.

Plain metadata, for programs that look for it, in the words of the IPTC. It is neither
signed nor a watermark: who encodes a file again takes it away, so that a file without it
may be synthetic all the same.
"""

from __future__ import annotations

import importlib.metadata
from typing import Any

from PIL.PngImagePlugin import PngInfo

SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"


def comment() -> str:
    """One line, for what has room for a line (mp4, GIF)."""
    return f"Synthetic, drawn by {_program()}, not recorded. {SOURCE_TYPE}"


def save_options(suffix: str) -> dict[str, Any]:
    """What `PIL.Image.Image.save` takes for a `.gif`, `.webp` or `.png`."""
    if suffix.lower() == ".gif":
        return {"comment": comment().encode()}
    if suffix.lower() == ".webp":
        return {"xmp": _xmp().encode()}
    info = PngInfo()
    info.add_itxt("XML:com.adobe.xmp", _xmp())
    return {"pnginfo": info}


def _program():
    try:
        return f"flax-heads {importlib.metadata.version('flax-heads')}"
    except importlib.metadata.PackageNotFoundError:  # run from a bare checkout
        return "flax-heads"


def _xmp():
    return (
        '<x:xmpmeta xmlns:x="adobe:ns:meta/">'
        '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        '<rdf:Description rdf:about=""'
        ' xmlns:xmp="http://ns.adobe.com/xap/1.0/"'
        ' xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"'
        f' xmp:CreatorTool="{_program()}"'
        f' Iptc4xmpExt:DigitalSourceType="{SOURCE_TYPE}"/>'
        "</rdf:RDF></x:xmpmeta>"
    )

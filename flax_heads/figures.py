"""Contact sheets: labelled grids of frames, to be looked at."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw, ImageFont

_MARGIN = 4
_LABEL = 20
_FONT_SIZES = range(14, 7, -1)


def contact_sheet(
    columns: dict[str, np.ndarray], tile: int = 128, rows: list[str] | None = None
) -> np.ndarray:
    """Lays frames out in a grid with a title over every column.

    Args:
      columns: title -> uint8 [R, H, W, 3]; all with the same R, any H = W.
      tile: side of a tile in pixels; frames are resized to it.
      rows: a caption for each row, drawn over its first tile.

    Returns:
      uint8 [height, width, 3].
    """
    (count,) = {len(frames) for frames in columns.values()}
    step = tile + _MARGIN
    width = step * len(columns) + _MARGIN
    sheet = Image.new("RGB", (width, step * count + _MARGIN + _LABEL), (255, 255, 255))
    draw = ImageDraw.Draw(sheet)
    for column, (title, frames) in enumerate(columns.items()):
        x = _MARGIN + column * step
        font = _font(title, tile)
        draw.text((x + 2, 3), title, fill=(0, 0, 0), font=font)
        for row, frame in enumerate(frames):
            y = _LABEL + _MARGIN + row * step
            picture = Image.fromarray(frame).resize(
                (tile, tile), Image.Resampling.BICUBIC
            )
            sheet.paste(picture, (x, y))
    for row, caption in enumerate(rows or []):
        font, position = _font(caption, tile), (_MARGIN, _LABEL + _MARGIN + row * step)
        left, top, right, bottom = draw.textbbox(position, caption, font=font)
        draw.rectangle((left, position[1], right + 4, bottom + 3), fill=(0, 0, 0))
        draw.text((left + 2, position[1]), caption, fill=(255, 255, 255), font=font)
    return np.asarray(sheet)


def _font(text: str, width: int):
    """The largest one in which the text is at most so wide."""
    fonts = [ImageFont.load_default(size) for size in _FONT_SIZES]
    return next((f for f in fonts if f.getlength(text) <= width - 4), fonts[-1])

"""Contact sheets: labelled grids of frames, to be looked at."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw, ImageFont

_MARGIN = 4
_LABEL = 18


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
    font = ImageFont.load_default()
    for column, (title, frames) in enumerate(columns.items()):
        x = _MARGIN + column * step
        draw.text((x + 2, 4), title, fill=(0, 0, 0), font=font)
        for row, frame in enumerate(frames):
            y = _LABEL + _MARGIN + row * step
            picture = Image.fromarray(frame).resize(
                (tile, tile), Image.Resampling.BICUBIC
            )
            sheet.paste(picture, (x, y))
    for row, caption in enumerate(rows or []):
        position = (_MARGIN + 2, _LABEL + _MARGIN + row * step + 2)
        draw.text(position, caption, fill=(255, 255, 0), font=font)
    return np.asarray(sheet)

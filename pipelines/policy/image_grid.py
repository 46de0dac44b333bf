"""Pictures on one sheet, each with a caption."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

TILE = 224  # least pixels a side of a picture on the sheet
CAPTION, LINE = 22, 16  # pixels of a caption of one line, and of each further line
CHARACTER = 6.6  # pixels, about
MARGIN = 8
NAMES = 64  # pixels for the rows' names


def image_grid(rows: Sequence[np.ndarray], captions: Sequence[Sequence[str]], names: Sequence[str]) -> Image.Image:
    """Rows of pictures, uint8 [B, H, W, 3] each, with a caption under every picture and a name before every row."""
    scale = max(1, -(-TILE // rows[0].shape[2]))
    height, width = rows[0].shape[1] * scale, rows[0].shape[2] * scale
    wrapped = [[textwrap.wrap(caption, int(width / CHARACTER)) for caption in said] for said in captions]
    under = CAPTION + LINE * (max(1, *(len(lines) for said in wrapped for lines in said)) - 1)
    step = height + under + MARGIN
    canvas = Image.new("RGB", (NAMES + max(map(len, rows)) * (width + MARGIN), len(rows) * step), "white")
    write = ImageDraw.Draw(canvas)
    for r, (images, said, name) in enumerate(zip(rows, wrapped, names, strict=True)):
        top = MARGIN // 2 + r * step
        write.text((8, top + height // 2 - 8), name, fill="black", font_size=16)
        for c, (image, lines) in enumerate(zip(images, said, strict=True)):
            left = NAMES + c * (width + MARGIN)
            picture = Image.fromarray(image).resize((width, height), Image.Resampling.LANCZOS)
            canvas.paste(picture, (left, top))
            write.text((left, top + height + 3), "\n".join(lines), fill="black", font_size=13)
    return canvas

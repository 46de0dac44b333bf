"""Pictures on one sheet, each with a caption."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

TILE = 224  # least pixels a side of a picture on the sheet
CAPTION = 22  # pixels
MARGIN = 8
NAMES = 64  # pixels for the rows' names


def sheet(rows: Sequence[np.ndarray], captions: Sequence[Sequence[str]], names: Sequence[str]) -> Image.Image:
    """Rows of pictures, uint8 [B, H, W, 3] each, with a caption under every picture and a name before every row."""
    scale = max(1, -(-TILE // rows[0].shape[2]))
    height, width = rows[0].shape[1] * scale, rows[0].shape[2] * scale
    canvas = Image.new(
        "RGB", (NAMES + len(rows[0]) * (width + MARGIN), len(rows) * (height + CAPTION + MARGIN)), "white"
    )
    write = ImageDraw.Draw(canvas)
    for r, (images, said, name) in enumerate(zip(rows, captions, names, strict=True)):
        top = MARGIN // 2 + r * (height + CAPTION + MARGIN)
        write.text((8, top + height // 2 - 8), name, fill="black", font_size=16)
        for c, (image, caption) in enumerate(zip(images, said, strict=True)):
            left = NAMES + c * (width + MARGIN)
            picture = Image.fromarray(image).resize((width, height), Image.Resampling.LANCZOS)
            canvas.paste(picture, (left, top))
            write.text((left, top + height + 3), caption, fill="black", font_size=13)
    return canvas

"""A grid of images with captions."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

MIN_SIDE = 224
"""Pixels of an image's side in the grid; smaller images are enlarged."""
CAPTION_HEIGHT, LINE_HEIGHT = 22, 16
"""Pixels of a caption with one line, and of each further line."""
CHARACTER_WIDTH = 6.6
"""Pixels, roughly."""
MARGIN = 8
NAME_WIDTH = 64
"""Pixels of the column with the names of the rows."""


def image_grid(rows: Sequence[np.ndarray], captions: Sequence[Sequence[str]], names: Sequence[str]) -> Image.Image:
    """Returns rows of images, uint8 [B, H, W, 3] each, with a caption below each image and a name before each row."""
    scale = max(1, -(-MIN_SIDE // rows[0].shape[2]))
    height, width = rows[0].shape[1] * scale, rows[0].shape[2] * scale
    wrapped = [[textwrap.wrap(caption, int(width / CHARACTER_WIDTH)) for caption in row] for row in captions]
    most_lines = max(1, *(len(lines) for row in wrapped for lines in row))
    row_height = height + CAPTION_HEIGHT + LINE_HEIGHT * (most_lines - 1) + MARGIN
    size = NAME_WIDTH + max(map(len, rows)) * (width + MARGIN), len(rows) * row_height
    grid = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(grid)
    for r, (images, row, name) in enumerate(zip(rows, wrapped, names, strict=True)):
        top = MARGIN // 2 + r * row_height
        draw.text((8, top + height // 2 - 8), name, fill="black", font_size=16)
        for c, (image, lines) in enumerate(zip(images, row, strict=True)):
            left = NAME_WIDTH + c * (width + MARGIN)
            grid.paste(Image.fromarray(image).resize((width, height), Image.Resampling.LANCZOS), (left, top))
            draw.text((left, top + height + 3), "\n".join(lines), fill="black", font_size=13)
    return grid

"""A grid of images with captions."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from contextlib import suppress
from functools import cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

MIN_SIDE = 224
"""Pixels of an image's side in the grid; smaller images are enlarged."""
CAPTION_HEIGHT, LINE_HEIGHT = 22, 16
"""Pixels of a caption with one line, and of each further line."""
CHARACTER_WIDTH = 6.6
"""Pixels, roughly."""
MARGIN = 8
NAME_WIDTH = 64
"""Pixels of the column with the names of the rows."""
TITLE_SIZE, TITLE_LINE = 16, 22
"""Font size of the title, and pixels of one of its lines."""
FONTS = (
    "DejaVuSans.ttf", "NotoSansCJK-Regular.ttc", "NotoSansSC-Regular.otf", "wqy-zenhei.ttc", "wqy-microhei.ttc",
    "PingFang.ttc", "Hiragino Sans GB.ttc", "msyh.ttc", "Arial Unicode.ttf",
)  # fmt: skip
"""Fonts of common systems, for characters that Pillow's own font does not have."""


def image_grid(
    rows: Sequence[np.ndarray],
    captions: Sequence[Sequence[str]],
    names: Sequence[str],
    title: Sequence[str] = (),
    colors: Sequence[Sequence[str]] = (),
) -> Image.Image:
    """Returns rows of images, uint8 [B, H, W, 3] each, with a caption below each image and a name before each row.

    Each entry of `title` begins a line above the images. `colors`: of the captions; black if there are none.
    """
    scale = max(1, -(-MIN_SIDE // rows[0].shape[2]))
    height, width = rows[0].shape[1] * scale, rows[0].shape[2] * scale
    wrapped = [[textwrap.wrap(caption, int(width / CHARACTER_WIDTH)) for caption in row] for row in captions]
    most_lines = max(1, *(len(lines) for row in wrapped for lines in row))
    row_height = height + CAPTION_HEIGHT + LINE_HEIGHT * (most_lines - 1) + MARGIN
    total_width = NAME_WIDTH + max(map(len, rows)) * (width + MARGIN)
    heading = _wrap_title(title, total_width - 2 * MARGIN)
    header = len(heading) * TITLE_LINE + (MARGIN if heading else 0)
    grid = Image.new("RGB", (total_width, header + len(rows) * row_height), "white")
    draw = ImageDraw.Draw(grid)
    for number, line in enumerate(heading):
        draw.text((MARGIN, MARGIN // 2 + number * TITLE_LINE), line, fill="black", font=font_for(line, TITLE_SIZE))
    for r, (images, row, name) in enumerate(zip(rows, wrapped, names, strict=True)):
        top = header + MARGIN // 2 + r * row_height
        draw.text((8, top + height // 2 - 8), name, fill="black", font_size=16)
        for c, (image, lines) in enumerate(zip(images, row, strict=True)):
            left = NAME_WIDTH + c * (width + MARGIN)
            grid.paste(Image.fromarray(image).resize((width, height), Image.Resampling.LANCZOS), (left, top))
            text, fill = "\n".join(lines), colors[r][c] if colors else "black"
            draw.text((left, top + height + 3), text, fill=fill, font=font_for(text, 13))
    return grid


def font_for(text: str, size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """The font of this machine that has most of the characters of a text; Pillow's own font if that is as good."""
    own = ImageFont.load_default(size)
    if text.isascii():
        return own
    return max((own, *_system_fonts(size)), key=lambda font: _coverage(font, text))


@cache
def _system_fonts(size: int) -> tuple[ImageFont.FreeTypeFont, ...]:
    """The fonts of FONTS that this machine has."""
    found: list[ImageFont.FreeTypeFont] = []
    for name in FONTS:
        with suppress(OSError):
            found.append(ImageFont.truetype(name, size))
    return tuple(found)


def _coverage(font: ImageFont.FreeTypeFont | ImageFont.ImageFont, text: str) -> int:
    """The number of characters that a font does not draw as the box that stands for a missing one."""
    missing = _drawn("\uffff", font)
    return sum(_drawn(character, font) != missing for character in set(text) if not character.isspace())


def _drawn(character: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> bytes:
    """The pixels of a character."""
    image = Image.new("L", (2 * TITLE_SIZE, 2 * TITLE_SIZE))
    ImageDraw.Draw(image).text((0, 0), character, fill=255, font=font)
    return image.tobytes()


def _wrap_title(title: Sequence[str], width: int) -> list[str]:
    """The lines of a title that are at most `width` pixels wide, if its words are."""
    lines: list[str] = []
    for text in title:
        font = font_for(text, TITLE_SIZE)
        line = ""
        for word in text.split(" "):
            longer = f"{line} {word}" if line else word
            if line and font.getlength(longer) > width:
                lines.append(line)
                longer = word
            line = longer
        lines.append(line)
    return lines

"""What OpenAI's and the HPSv2 authors' code does to images and prompts, where the processors of transformers differ."""

from __future__ import annotations

import html
import unicodedata

import numpy as np
import torch
from PIL import Image
from torch import Tensor

_PLAIN: dict[int, str] = {
    **dict.fromkeys((0x2BC, *range(0x2018, 0x201C)), "'"),
    **dict.fromkeys(range(0x201C, 0x2020), '"'),
    **{code: unicodedata.normalize("NFKC", chr(code)) for code in (0x3000, *range(0xFB00, 0xFB07))},
    **{code: unicodedata.normalize("NFKC", chr(code)) for code in range(0xFF01, 0xFFF0)},
}
"""Code point -> the character in its place: curly quotes, ligatures, and characters of full or half width."""


def cleaned(text: str) -> str:
    """The text as OpenAI's tokenizer reads it: plain quotes, letters and widths, and no HTML entities.

    That tokenizer cleans with ftfy, which also repairs text that was decoded by a wrong encoding. This does not.
    """
    return html.unescape(html.unescape(text.translate(_PLAIN)))


def cropped(image: Image.Image, side: int) -> Image.Image:
    """The square of `side` pixels in the middle, after the shorter side was resized to it: Resize, CenterCrop.

    As torchvision, half a pixel of margin is rounded to the even number. Transformers rounds it down, so that an image
    that is not square can be one pixel beside it.
    """
    short = min(image.size)
    width, height = (side if edge == short else int(edge * side / short) for edge in image.size)
    resized = image.resize((width, height), Image.Resampling.BICUBIC) if short != side else image
    left, top = round((width - side) / 2), round((height - side) / 2)
    return resized.crop((left, top, left + side, top + side))


def letterboxed(image: np.ndarray, side: int) -> Tensor:
    """The whole image in the middle of a black square, as HPSv2's `ResizeMaxSize`  # [3, side, side], 0 to 1.

    It resizes a float tensor, so values are not rounded, and some are a little below 0 or above 1. Cropping would cut
    off what is at the left and at the right.
    """
    height, width = image.shape[:2]
    scale = side / max(height, width)
    size = (round(height * scale), round(width * scale))
    pixels = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))).float() / 255
    if scale != 1:
        resize = torch.nn.functional.interpolate
        pixels = resize(pixels[None], size, mode="bicubic", align_corners=False, antialias=True)[0]
    square = torch.zeros(3, side, side)
    top, left = (side - size[0]) // 2, (side - size[1]) // 2
    square[:, top : top + size[0], left : left + size[1]] = pixels
    return square

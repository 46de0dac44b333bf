"""The size at which Qwen2.5-VL sees an image. Imports no torch, so that the processes that decode images start fast."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image

from actors.images import decode_image
from actors.spatialscore.config import USEFUL_FACTOR


@dataclass(frozen=True)
class ImageBounds:
    """Every image is resized to about `pixels` pixels, with sides that are multiples of `factor` pixels."""

    pixels: int
    factor: int  # sides of an image token

    def target(self, height: int, width: int) -> tuple[int, int]:
        """Height and width after resizing. Equal to `smart_resize` of transformers with both bounds at `pixels`."""
        rows, columns = round(height / self.factor), round(width / self.factor)
        pixels = rows * columns * self.factor**2
        if pixels > self.pixels:
            beta = math.sqrt(height * width / self.pixels)
            rows = max(1, math.floor(height / beta / self.factor))
            columns = max(1, math.floor(width / beta / self.factor))
        elif pixels < self.pixels:
            beta = math.sqrt(self.pixels / (height * width))
            rows = math.ceil(height * beta / self.factor)
            columns = math.ceil(width * beta / self.factor)
        return rows * self.factor, columns * self.factor

    def decode(self, data: bytes) -> np.ndarray:
        """An image file as the model sees it, uint8 [H, W, 3], read-only.

        Equal to what the image processor of transformers makes of `decode_image(data, shrink_to=…)`. Raises ImageError.
        """
        image = decode_image(data, shrink_to=USEFUL_FACTOR * self.pixels)
        height, width = self.target(*image.shape[:2])
        if (height, width) == image.shape[:2]:
            return image
        return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC))

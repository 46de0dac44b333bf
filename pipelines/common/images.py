"""A picture as it is kept: losslessly compressed bytes, with a digest of its content and one of its looks."""

from __future__ import annotations

import base64
import hashlib
import io
from dataclasses import dataclass

import numpy as np
from PIL import Image

EMBEDDED_SIZE = 384
"""Pixels a side of an image that is embedded in a page; larger ones are reduced."""

_GREY = 32  # pixels a side of the grey thumbnail that is hashed
_COSINES = np.cos(np.pi / _GREY * np.outer(np.arange(8), np.arange(_GREY) + 0.5))  # [8, 32], DCT-II


@dataclass(frozen=True)
class StoredImage:
    """One image of a pair."""

    png: bytes
    phash: str
    generator: str  # who painted it
    seed: int

    @classmethod
    def of(cls, pixels: np.ndarray, generator: str, seed: int) -> StoredImage:
        """From uint8 [H, W, 3] pixels."""
        return cls(encode_png(pixels), perceptual_hash(pixels), generator, seed)

    def pixels(self) -> np.ndarray:
        """uint8 [H, W, 3]."""
        return decode(self.png)

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.png).hexdigest()


def encode_png(pixels: np.ndarray) -> bytes:
    """uint8 [H, W, 3] pixels as PNG."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=2)
    return buffer.getvalue()


def decode(encoded: bytes) -> np.ndarray:
    """Any image file's bytes as uint8 [H, W, 3]."""
    with Image.open(io.BytesIO(encoded)) as image:
        return np.asarray(image.convert("RGB"))


def perceptual_hash(pixels: np.ndarray) -> str:
    """64 bits as hex: the signs, about their median, of the 8 x 8 lowest cosine frequencies of 32 x 32 grey pixels.

    Pictures that look alike differ in few bits (pHash, Zauner 2010).
    """
    grey = Image.fromarray(pixels).convert("L").resize((_GREY, _GREY), Image.Resampling.BOX)
    low = (_COSINES @ np.asarray(grey, dtype=np.float64) @ _COSINES.T).ravel()  # [64]
    return np.packbits(low > np.median(low[1:])).tobytes().hex()


def hamming(first: str, second: str) -> int:
    """Number of bits in which two perceptual hashes differ."""
    return (int(first, 16) ^ int(second, 16)).bit_count()


def data_uri(encoded: bytes) -> str:
    """An image file's bytes as a data URI, reduced if it is large."""
    with Image.open(io.BytesIO(encoded)) as image:
        kind = (image.format or "PNG").lower()
        if max(image.size) > EMBEDDED_SIZE:
            image.thumbnail((EMBEDDED_SIZE, EMBEDDED_SIZE))
            buffer = io.BytesIO()
            image.convert("RGB").save(buffer, "JPEG", quality=85)
            encoded, kind = buffer.getvalue(), "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(encoded).decode()}"

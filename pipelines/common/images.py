"""Images as stored: the bytes of a file, their digest and a perceptual hash."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

import numpy as np
from PIL import Image

from actors.files import digest
from actors.images import decode_image

EMBEDDED_SIZE = 384
"""Side length in pixels of an image that is embedded in a page. Larger images are scaled down."""

_GREY = 32  # side length in pixels of the grey thumbnail that is hashed
_COSINES = np.cos(np.pi / _GREY * np.outer(np.arange(8), np.arange(_GREY) + 0.5))  # [8, 32], DCT-II


@dataclass(frozen=True)
class StoredImage:
    """One image of a preference pair."""

    content: bytes  # of a PNG, JPEG or WebP file
    phash: str
    generator: str  # name of the generator that made it
    seed: int

    @classmethod
    def of(cls, pixels: np.ndarray, generator: str, seed: int) -> StoredImage:
        """Encodes uint8 [H, W, 3] pixels as PNG."""
        return cls(encode_png(pixels), perceptual_hash(pixels), generator, seed)

    def pixels(self) -> np.ndarray:
        """Returns the decoded image, uint8 [H, W, 3]."""
        return decode_image(self.content)

    @property
    def sha256(self) -> str:
        """SHA-256 of the file, in hexadecimal digits."""
        return digest(self.content)


def encode_png(pixels: np.ndarray) -> bytes:
    """Encodes uint8 [H, W, 3] pixels as PNG."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=2)
    return buffer.getvalue()


def encode_jpeg(pixels: np.ndarray, quality: int) -> bytes:
    """Encodes uint8 [H, W, 3] pixels as JPEG, at full resolution of the colours from quality 95 on."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality, subsampling=0 if quality >= 95 else 2)
    return buffer.getvalue()


def encode_webp(pixels: np.ndarray, quality: int) -> bytes:
    """Encodes uint8 [H, W, 3] pixels as WebP, with losses."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "WEBP", quality=quality)
    return buffer.getvalue()


def perceptual_hash(pixels: np.ndarray) -> str:
    """Returns a 64-bit perceptual hash as 16 hexadecimal digits (pHash, Zauner 2010).

    Each bit tells whether one of the 8 x 8 lowest cosine frequencies of the image, reduced to 32 x 32 grey pixels, is
    above their median. Similar images differ in few bits.
    """
    grey = Image.fromarray(pixels).convert("L").resize((_GREY, _GREY), Image.Resampling.BOX)
    low = (_COSINES @ np.asarray(grey, dtype=np.float64) @ _COSINES.T).ravel()  # [64]
    return np.packbits(low > np.median(low[1:])).tobytes().hex()


def hamming(first: str, second: str) -> int:
    """Returns the number of bits in which two perceptual hashes differ."""
    return (int(first, 16) ^ int(second, 16)).bit_count()


def data_uri(encoded: bytes) -> str:
    """Returns an image file as a data URI of what the models see. An image larger than EMBEDDED_SIZE is scaled down.

    Raises ImageError if the file is no image.
    """
    pixels = decode_image(encoded)
    if max(pixels.shape[:2]) <= EMBEDDED_SIZE:
        kind, content = "png", encode_png(pixels)
    else:
        small = Image.fromarray(pixels)
        small.thumbnail((EMBEDDED_SIZE, EMBEDDED_SIZE))
        kind, content = "jpeg", encode_jpeg(np.asarray(small), quality=85)
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"

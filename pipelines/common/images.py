"""Images as stored: PNG bytes, a digest of the content and a perceptual hash."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

import numpy as np
from PIL import Image

from actors.files import digest

EMBEDDED_SIZE = 384
"""Side length in pixels of an image that is embedded in a page. Larger images are scaled down."""

_GREY = 32  # side length in pixels of the grey thumbnail that is hashed
_COSINES = np.cos(np.pi / _GREY * np.outer(np.arange(8), np.arange(_GREY) + 0.5))  # [8, 32], DCT-II


@dataclass(frozen=True)
class StoredImage:
    """One image of a preference pair."""

    png: bytes
    phash: str
    generator: str  # name of the generator that made it
    seed: int

    @classmethod
    def of(cls, pixels: np.ndarray, generator: str, seed: int) -> StoredImage:
        """Encodes uint8 [H, W, 3] pixels."""
        return cls(encode_png(pixels), perceptual_hash(pixels), generator, seed)

    def pixels(self) -> np.ndarray:
        """Returns the decoded image, uint8 [H, W, 3]."""
        return decode(self.png)

    @property
    def sha256(self) -> str:
        """SHA-256 of the PNG bytes, in hexadecimal digits."""
        return digest(self.png)


def encode_png(pixels: np.ndarray) -> bytes:
    """Encodes uint8 [H, W, 3] pixels as PNG."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=2)
    return buffer.getvalue()


def decode(encoded: bytes) -> np.ndarray:
    """Decodes the bytes of any image file to uint8 [H, W, 3]."""
    with Image.open(io.BytesIO(encoded)) as image:
        return np.asarray(image.convert("RGB"))


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
    """Returns the bytes of an image file as a data URI. An image larger than EMBEDDED_SIZE is scaled down."""
    with Image.open(io.BytesIO(encoded)) as image:
        kind = (image.format or "PNG").lower()
        if max(image.size) > EMBEDDED_SIZE:
            image.thumbnail((EMBEDDED_SIZE, EMBEDDED_SIZE))
            buffer = io.BytesIO()
            image.convert("RGB").save(buffer, "JPEG", quality=85)
            encoded, kind = buffer.getvalue(), "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(encoded).decode()}"

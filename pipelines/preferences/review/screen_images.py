"""Images at the size of a screen, so that annotators do not wait for the master of 7 MB."""

from __future__ import annotations

import hashlib
import io
import threading
from collections import OrderedDict

from PIL import Image

from actors.images import ImageError, decode_image

MAX_SIDE = 1024  # pixels
QUALITY = 90  # of WebP
SMALL_BYTES = 256 * 1024
"""A master that fits on the screen and is not larger than this is sent as it is."""
_CACHED = 64  # images


class ScreenImages:
    """Converts masters and keeps the newest results. Threads can share it."""

    def __init__(self) -> None:
        self._cache: OrderedDict[bytes, bytes] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, master: bytes) -> bytes:
        """The image as WebP with at most MAX_SIDE pixels a side; the master itself if it is small or unreadable."""
        key = hashlib.sha256(master).digest()
        with self._lock:
            if key in self._cache:
                self._cache.move_to_end(key)
                return self._cache[key]
        content = _at_screen_size(master)
        with self._lock:
            self._cache[key] = content
            while len(self._cache) > _CACHED:
                self._cache.popitem(last=False)
        return content


def _at_screen_size(master: bytes) -> bytes:
    try:
        pixels = decode_image(master)
    except ImageError:
        return master  # the browser shows what it can
    if len(master) <= SMALL_BYTES and max(pixels.shape[:2]) <= MAX_SIDE:
        return master
    image, buffer = Image.fromarray(pixels), io.BytesIO()
    image.thumbnail((MAX_SIDE, MAX_SIDE), Image.Resampling.LANCZOS)
    image.save(buffer, "WEBP", quality=QUALITY)
    return buffer.getvalue()

"""Images of generators that run on the cluster, kept until their shard is saved, so that GPU work is never repeated."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from actors.files import delete_files, exists, join, read_file, write_file
from actors.images import ImageError, decode_image
from pipelines.common.images import encode_png
from pipelines.preferences.roles.base import RawImage
from pipelines.preferences.roles.checked_images import Draw, ImageRequest

_NAME = re.compile(r"[0-9a-f]{32}\.png")


@dataclass(frozen=True)
class ImageCache:
    """The images of one shard in a folder or at a URI. The name of an image follows from all that determines it."""

    location: str
    generator: str
    identity: Mapping[str, Any]
    """The settings that determine the images."""

    def cached(self, draw: Draw) -> Draw:
        """`draw`, asked only for images that are not in the cache."""

        async def draw_once(request: ImageRequest) -> RawImage:
            path = self._path(request)
            pixels = await asyncio.to_thread(_read, path)
            if pixels is not None:
                return RawImage(pixels, self.generator, request.seed)
            image = await draw(request)
            await asyncio.to_thread(write_file, path, encode_png(image.pixels))
            return image

        return draw_once

    def _path(self, request: ImageRequest) -> str:
        content = [self.generator, dict(self.identity), request.text, request.seed]
        if request.source:  # the image that is edited
            content.append(hashlib.sha256(request.source.pixels.tobytes()).hexdigest())
        digest = hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()
        return join(self.location, f"{digest[:32]}.png")


def clear_image_cache(location: str) -> None:
    """Removes the images of a shard that is saved."""
    delete_files(location, lambda name: _NAME.fullmatch(name) is not None)


def _read(path: str) -> np.ndarray | None:
    """The pixels of a cached image; None if there is none, or if the file is damaged: then it is generated again."""
    if not exists(path):
        return None
    try:
        return decode_image(read_file(path))
    except ImageError as error:
        logging.warning("the cached image %s is damaged and is generated again: %s", path, error)
        return None

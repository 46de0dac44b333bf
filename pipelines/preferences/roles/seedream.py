"""The generator behind an OpenAI-compatible images API, by default that of Seedream."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from actors.images import ImageError, decode_image
from actors.services.endpoint import Endpoint
from actors.services.image_question import data_url
from conf.endpoints import SeedreamSettings
from pipelines.preferences.checks.words import InvalidAnswer
from pipelines.preferences.roles.base import RawImage
from pipelines.preferences.roles.checked_images import ImageRequest


@dataclass(frozen=True)
class SeedreamGenerator:
    """Generates and edits images by an OpenAI-compatible images API."""

    endpoint: Endpoint
    settings: SeedreamSettings

    async def draw(self, request: ImageRequest) -> RawImage:
        """Generates or edits one image. Raises InvalidAnswer if the answer is none, and what Endpoint.image raises."""
        source = await asyncio.to_thread(data_url, request.source.pixels) if request.source else ""
        content = await self.endpoint.image(request.text, self.settings.size, request.seed, source)
        try:
            return RawImage(await asyncio.to_thread(decode_image, content), "seedream", request.seed)
        except ImageError as error:
            raise InvalidAnswer(
                "malformed", f"the service must return an image, got {len(content)} bytes: {error}"
            ) from None

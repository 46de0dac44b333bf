"""The generator behind an OpenAI-compatible images API, by default that of Seedream."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from actors.images import ImageError, decode_image
from actors.services.endpoint import Endpoint
from conf.endpoints import SeedreamSettings
from pipelines.preferences.checks.words import InvalidAnswer
from pipelines.preferences.roles.base import Dropped, PromptPair, RawImage, RawPair
from pipelines.preferences.roles.chat import or_dropped


@dataclass(frozen=True)
class SeedreamGenerator:
    """Generates images by an OpenAI-compatible images API."""

    endpoint: Endpoint
    settings: SeedreamSettings

    async def generate(self, prompts: Sequence[PromptPair]) -> list[RawPair | Dropped]:
        """Returns both images of every pair, in order. Raises EndpointError if no call can succeed."""
        pairs = (or_dropped(prompt.spec, "generator", self._generate(prompt)) for prompt in prompts)
        return list(await asyncio.gather(*pairs))

    async def _generate(self, prompt: PromptPair) -> RawPair:
        winner, loser = await asyncio.gather(*(self._raw_image(text, prompt.image_seed) for text in prompt.texts))
        return RawPair(prompt, winner, loser)

    async def _raw_image(self, text: str, seed: int) -> RawImage:
        content = await self.endpoint.image(text, self.settings.size, seed)
        try:
            return RawImage(await asyncio.to_thread(decode_image, content), "seedream", seed)
        except ImageError as error:
            raise InvalidAnswer(
                "malformed", f"the service must return an image, got {len(content)} bytes: {error}"
            ) from None

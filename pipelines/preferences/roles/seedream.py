"""The painter behind an OpenAI-compatible images API. Seedream's, by default."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import UnidentifiedImageError

from actors.services.endpoint import Endpoint
from conf.endpoints import SeedreamSettings
from pipelines.common.images import decode
from pipelines.preferences.checks.prompt_checks import InvalidAnswer
from pipelines.preferences.roles.base import Dropped, PromptPair, RawImage, RawPair
from pipelines.preferences.roles.chat import or_dropped


@dataclass(frozen=True)
class SeedreamGenerator:
    """Paints by an OpenAI-compatible images API."""

    endpoint: Endpoint
    settings: SeedreamSettings

    async def generate(self, drafts: Sequence[PromptPair]) -> list[RawPair | Dropped]:
        """Both pictures of every draft, in order. Raises EndpointError if no call can succeed."""
        return list(
            await asyncio.gather(*(or_dropped(draft.task, "painter", self._generate(draft)) for draft in drafts))
        )

    async def _generate(self, draft: PromptPair) -> RawPair:
        winner, loser = await asyncio.gather(*(self._raw_image(text, draft.image_seed) for text in draft.texts))
        return RawPair(draft, winner, loser)

    async def _raw_image(self, text: str, seed: int) -> RawImage:
        content = await self.endpoint.image(text, self.settings.size, seed)
        try:
            return RawImage(await asyncio.to_thread(decode, content), "seedream", seed)
        except UnidentifiedImageError:
            raise InvalidAnswer("malformed", f"{len(content)} bytes that are no image") from None

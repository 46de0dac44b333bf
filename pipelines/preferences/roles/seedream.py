"""The painter behind an OpenAI-compatible images API. Seedream's, by default."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import UnidentifiedImageError

from actors.services.endpoint import Endpoint
from conf.endpoints import SeedreamSettings
from pipelines.common.images import decode
from pipelines.preferences.checks.prompt_checks import Unfit
from pipelines.preferences.roles.base import Canvas, Draft, Drawn, Dropped
from pipelines.preferences.roles.chat import or_dropped


@dataclass(frozen=True)
class SeedreamPainter:
    """Paints by an OpenAI-compatible images API."""

    endpoint: Endpoint
    settings: SeedreamSettings

    async def draw(self, drafts: Sequence[Draft]) -> list[Drawn | Dropped]:
        """Both pictures of every draft, in order. Raises EndpointError if no call can succeed."""
        return list(await asyncio.gather(*(or_dropped(draft.task, "painter", self._draw(draft)) for draft in drafts)))

    async def _draw(self, draft: Draft) -> Drawn:
        winner, loser = await asyncio.gather(*(self._canvas(text, draft.picture_seed) for text in draft.texts))
        return Drawn(draft, winner, loser)

    async def _canvas(self, text: str, seed: int) -> Canvas:
        content = await self.endpoint.image(text, self.settings.size, seed)
        try:
            return Canvas(await asyncio.to_thread(decode, content), "seedream", seed)
        except UnidentifiedImageError:
            raise Unfit("malformed", f"{len(content)} bytes that are no image") from None

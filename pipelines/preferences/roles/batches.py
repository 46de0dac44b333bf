"""Single requests of many coroutines, drawn together in the batches that a GPU needs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import torch

from pipelines.preferences.checks.words import InvalidAnswer
from pipelines.preferences.roles.base import RawImage
from pipelines.preferences.roles.checked_images import ImageRequest


class BatchDrawer:
    """Draws whatever waits, at most `batch` images at a time. Use it inside one event loop.

    While a batch is drawn in a thread, the answers about earlier images arrive, and failed sides ask again. So the GPU
    waits for the judge only if no other side of the shard waits.
    """

    def __init__(self, draw: Callable[[Sequence[ImageRequest]], list[RawImage]], batch: int) -> None:
        """`draw` is called in a thread, one call at a time."""
        self._draw, self._batch = draw, batch
        self._waiting: list[tuple[ImageRequest, asyncio.Future[RawImage]]] = []
        self._worker: asyncio.Task[None] | None = None

    async def __call__(self, request: ImageRequest) -> RawImage:
        """Draws one image. Raises InvalidAnswer, with reason "memory", if not even one image fits the GPU."""
        image: asyncio.Future[RawImage] = asyncio.get_running_loop().create_future()
        self._waiting.append((request, image))
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._work())
        return await image

    async def _work(self) -> None:
        await asyncio.sleep(0)  # coroutines that start together are drawn together
        while self._waiting:
            batch, self._waiting = self._waiting[: self._batch], self._waiting[self._batch :]
            requests = [request for request, _ in batch]
            try:
                images = await asyncio.to_thread(self._split, requests)
            except Exception as error:
                for _, future in batch:
                    if not future.done():
                        future.set_exception(error)
                continue
            for (_, future), image in zip(batch, images, strict=True):
                if not future.done():
                    future.set_result(image)

    def _split(self, requests: Sequence[ImageRequest]) -> list[RawImage]:
        """Draws a batch, in halves if it does not fit the memory of the GPU."""
        try:
            return self._draw(requests)
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            if len(requests) == 1:
                raise InvalidAnswer(
                    "memory", "one image does not fit the memory of the GPU: set offload=model"
                ) from None
        half = len(requests) // 2
        return [*self._split(requests[:half]), *self._split(requests[half:])]

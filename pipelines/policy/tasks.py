"""Concurrent work of which nothing remains if a part of it fails."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

Result = TypeVar("Result")


async def gather_or_cancel(*work: Coroutine[Any, Any, Result]) -> list[Result]:
    """The results of all, in order. If one of them raises, or this is cancelled, nothing of them is still running."""
    tasks = [asyncio.create_task(each) for each in work]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

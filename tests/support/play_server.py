"""The page of `play` without Ray: its application on a local port, with a sampler and rewards that need no model."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Generator, Mapping
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import uvicorn
from ray import serve

from actors.policy.comparison import Comparison
from actors.services.keys import Key
from actors.types import Scores
from pipelines.play import app as play_app
from pipelines.play.line import Line
from pipelines.play.rules import PromptRules
from pipelines.play.service import PlayService
from pipelines.scenes import grammar, render
from tests.support.browser import wait_for
from tests.support.ports import free_port

RIGHT = grammar.parse("a red circle left of a blue square")
WRONG = grammar.parse("a red circle right of a blue square and above a green triangle")


def scene_image(scene: grammar.Scene) -> np.ndarray:
    rng = np.random.default_rng(0)
    return render.render(render.lay_out(scene, rng), rng)


class FakeSampler:
    """Stands in for a handle to the replicas. `gate` holds the images back; `error` replaces them."""

    def __init__(self, error: Exception | None = None) -> None:
        self.gate, self.error = threading.Event(), error
        self.asked, self.cancelled = list[tuple[str, int]](), 0
        self.gate.set()

    def options(self, stream: bool) -> Any:
        assert stream
        return SimpleNamespace(sample=SimpleNamespace(remote=self._remote))

    def _remote(self, text: str, seed: int) -> Any:
        self.asked.append((text, seed))

        def cancel() -> None:
            self.cancelled += 1

        return _Response(self._parts(), cancel)

    async def _parts(self) -> AsyncGenerator[float | Comparison]:
        yield 0.5
        while not self.gate.is_set():
            await asyncio.sleep(0.01)
        if self.error:
            raise self.error
        yield Comparison(scene_image(WRONG), scene_image(RIGHT))


class _Response:
    def __init__(self, parts: AsyncGenerator[Any], cancel: Any) -> None:
        self._parts, self.cancel = parts, cancel

    def __aiter__(self) -> AsyncGenerator[Any]:
        return self._parts


class FakeReward:
    """Scores the base -1.5 and the tuned image 2, or fails."""

    def __init__(self, error: Exception | None = None, tuned: float = 2.0) -> None:
        self.error, self.tuned = error, tuned

    async def score(self, images: np.ndarray, prompts: list[str]) -> Scores:
        if self.error:
            raise self.error
        assert images.shape == (2, 64, 64, 3) and len(set(prompts)) == 1
        return Scores.deterministic([-1.5, self.tuned])


ABOUT = {
    "run": "demo",
    "base": "the small FLUX of the scenes world",
    "version": 47,
    "width": 64,
    "height": 64,
    "denoise_steps": 28,
    "rewards": ["SpatialScore"],
    "exact": True,
    "examples": [RIGHT.text, WRONG.text],
    "max_characters": 300,
}


@contextmanager
def serving_play(
    sampler: Any, rewards: Mapping[str, Any], waiting: int = 1, token: str = "", scenes: bool = True
) -> Generator[str]:
    """Serves the page and yields its address. Serve's own way to find the replica is replaced."""
    page = SimpleNamespace(
        _service=PlayService(sampler, rewards, Line(1, waiting), scenes),
        _rules=PromptRules(ABOUT["max_characters"], scenes),
        _about=ABOUT,
        _token=Key(token) if token else None,
    )
    port = free_port()
    server = uvicorn.Server(
        uvicorn.Config(play_app.app, port=port, log_level="error", lifespan="off", timeout_graceful_shutdown=1)
    )
    thread = threading.Thread(target=server.run, daemon=True)
    with patch.object(serve, "get_replica_context", lambda: SimpleNamespace(servable_object=page)):
        thread.start()
        try:
            wait_for(lambda: server.started, "the page")
            yield f"http://127.0.0.1:{port}/"
        finally:
            server.should_exit = True
            thread.join()

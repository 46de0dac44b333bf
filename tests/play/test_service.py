"""The line, progress, scores and errors of the page's service, with a sampler and rewards that are not on Ray."""

from __future__ import annotations

import asyncio
import base64
import io
from collections.abc import AsyncGenerator
from typing import Any

import numpy as np
import pytest
from PIL import Image
from ray.exceptions import RayActorError, RayTaskError

from actors.reward_input import InputError
from actors.types import Prompt
from actors.workers.faults import DeviceFault, DeviceFaultError
from actors.workers.score_body import Refused
from pipelines.play.line import Line
from pipelines.play.service import Event, PlayService
from tests.support.play_server import RIGHT, WRONG, FakeReward, FakeSampler, scene_image


def _service(sampler: FakeSampler, line: Line | None = None, exact: bool = True, **rewards: Any) -> PlayService:
    return PlayService(sampler, rewards, line or Line(1, 1), exact)  # pyright: ignore[reportArgumentType]


async def _all(events: AsyncGenerator[Event]) -> list[Event]:
    return [event async for event in events]


def test_a_prompt_becomes_progress_then_images_scores_and_the_exact_verdict() -> None:
    sampler = FakeSampler()
    rewards = {
        "SpatialScore": FakeReward(),
        "broken": FakeReward(RayActorError()),
        "unsure": FakeReward(tuned=float("nan")),
    }
    *before, done = asyncio.run(_all(_service(sampler, **rewards).events(RIGHT.prompt(), 7)))
    assert sampler.asked == [(RIGHT.text, 7)]
    assert [(event["state"], event.get("done")) for event in before] == [
        ("sampling", 0.0), ("sampling", 0.5), ("scoring", None)
    ]  # fmt: skip
    assert (done["state"], done["prompt"], done["seed"]) == ("done", RIGHT.text, 7)
    assert done["base"]["scores"] == {"SpatialScore": -1.5, "broken": None, "unsure": -1.5}
    assert done["tuned"]["scores"] == {"SpatialScore": 2.0, "broken": None, "unsure": None}
    for side, scene in (("base", WRONG), ("tuned", RIGHT)):
        image = np.array(Image.open(io.BytesIO(base64.b64decode(done[side]["png"]))))
        assert np.array_equal(image, scene_image(scene)), "the image arrives pixel by pixel"
    text = "red circle left of blue square"
    assert done["tuned"]["verdict"] == {
        "perfect": True,
        "relations": [{"text": text, "holds": True, "instead": ""}],
        "missing": [],
        "unrequested": [],
    }
    assert done["base"]["verdict"] == {
        "perfect": False,
        "relations": [{"text": text, "holds": False, "instead": "seen right of"}],
        "missing": [],
        "unrequested": ["green triangle"],
    }


def test_without_the_exact_checker_or_relations_there_is_no_verdict() -> None:
    for exact, prompt in ((False, RIGHT.prompt()), (True, Prompt("", RIGHT.text))):
        done = asyncio.run(_all(_service(FakeSampler(), exact=exact).events(prompt, 0)))[-1]
        assert done["base"]["verdict"] is None and done["base"]["scores"] == {}


def test_one_prompt_is_served_the_next_waits_and_a_third_is_refused() -> None:
    async def scenario() -> None:
        sampler, line = FakeSampler(), Line(served=1, waiting=1)
        sampler.gate.clear()
        service = _service(sampler, line)
        first, second = service.events(RIGHT.prompt(), 1), service.events(RIGHT.prompt(), 2)
        assert (await anext(first))["state"] == "sampling"
        assert await anext(second) == {"state": "waiting", "ahead": 1}
        with pytest.raises(Refused, match="busy") as refused:
            await anext(service.events(RIGHT.prompt(), 3))
        assert refused.value.status == 503 and "Retry-After" in refused.value.headers
        rest = asyncio.create_task(_all(second))
        await asyncio.sleep(0)
        assert sampler.asked == [], "the second waits for the first"
        sampler.gate.set()
        assert (await _all(first))[-1]["state"] == "done"
        assert (await rest)[-1]["seed"] == 2
        assert [seed for _, seed in sampler.asked] == [1, 2]
        assert (await _all(service.events(RIGHT.prompt(), 4)))[-1]["state"] == "done", "all places are free again"

    asyncio.run(scenario())


def test_a_visitor_who_leaves_frees_the_place_and_the_replica() -> None:
    async def scenario() -> None:
        sampler, line = FakeSampler(), Line(served=1, waiting=0)
        sampler.gate.clear()
        service = _service(sampler, line)
        left = service.events(RIGHT.prompt(), 1)
        assert [await anext(left), await anext(left)][-1]["done"] == 0.5
        await left.aclose()
        assert sampler.cancelled == 1
        sampler.gate.set()
        assert (await _all(service.events(RIGHT.prompt(), 2)))[-1]["state"] == "done"

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (RayTaskError("sample", "trace", InputError("this model reads 24 tokens")), "this model reads 24 tokens"),
        (RayActorError(), "ended and is started again"),
        (RayTaskError("sample", "trace", DeviceFaultError(DeviceFault("out_of_memory", "play", "n", "h", "c"))),
         "memory of the GPU is full"),
        (RayTaskError("sample", "trace", RuntimeError("secret path")), "failed with RuntimeError"),
    ],
)  # fmt: skip
def test_an_error_of_the_replica_is_said_in_words_for_the_visitor(error: Exception, reason: str) -> None:
    *_, last = asyncio.run(_all(_service(FakeSampler(error)).events(RIGHT.prompt(), 0)))
    assert last["state"] == "failed" and reason in last["reason"]
    assert "secret" not in last["reason"]

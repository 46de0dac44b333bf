"""What the service of POST /score answers, without Ray: refusals, deadlines, limits that all clients share."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from fastapi import Request
from ray.exceptions import RayActorError, RayTaskError
from ray.serve.exceptions import BackPressureError

from actors.reward_input import InputError
from actors.services.keys import Key
from actors.types import Scores
from actors.workers.score_body import Refused
from actors.workers.score_service import ScoreService, ServiceLimits
from conf import SettingsError, load
from tests.support.hostile_requests import Hostile, form_body, hostile_requests, json_body, mutated, png

GOOD = json_body([png()], ["a red circle"])
Score = Callable[[list[np.ndarray], list[str]], Awaitable[Scores]]


async def _scores_1_5(images: list[np.ndarray], prompts: list[str]) -> Scores:
    return Scores(np.full(len(images), 1.5, np.float32), np.ones(len(prompts), np.float32))


def _service(score: Score = _scores_1_5, token: str = "", **limits: float) -> ScoreService:
    defaults: dict[str, Any] = {"places": 8, "shrink_to": 64 * 64}
    replica: Any = SimpleNamespace(score=SimpleNamespace(remote=score))
    return ScoreService(replica, Key(token) if token else None, ServiceLimits(**(defaults | limits)))


def _request(body: bytes | AsyncIterator[bytes], content_type: str = "application/json", **headers: str) -> Request:
    length = str(len(body)) if isinstance(body, bytes) else "1000"
    sent = {"content-type": content_type, "content-length": length} | headers
    scope = {"type": "http", "client": ("1.2.3.4", 5)}
    scope["headers"] = [(name.encode(), value.encode("latin-1", "replace")) for name, value in sent.items()]

    async def one() -> AsyncIterator[bytes]:
        yield body if isinstance(body, bytes) else b""

    chunks = one() if isinstance(body, bytes) else body

    async def receive() -> dict[str, object]:
        chunk = await anext(chunks, None)
        return {"type": "http.request", "body": chunk or b"", "more_body": chunk is not None}

    return Request(scope, receive)


def _answer(service: ScoreService, request: Request) -> list[float]:
    return asyncio.run(service.answer(request)).mu.tolist()


def test_images_of_one_prompt_get_calibrated_probabilities() -> None:
    async def score(images: list[np.ndarray], prompts: list[str]) -> Scores:
        return Scores(np.array([2.0, 0.5, 1.0, np.nan, 1e6], np.float32), np.ones(5, np.float32))

    body = json_body([png()] * 5, ["a", "a", "alone", "a", "a"])
    service = _service(score)
    assert np.isnan(asyncio.run(service.answer(_request(body))).win_probability).all(), "not calibrated"
    replica: Any = SimpleNamespace(score=SimpleNamespace(remote=score))
    service = ScoreService(replica, None, ServiceLimits(places=8, shrink_to=64 * 64), temperature=0.5)
    found = asyncio.run(service.answer(_request(body))).win_probability
    first = 1 / (1 + np.exp(-(2.0 - 0.5) / 0.5))  # of image 0 against image 1; image 4 beats both
    np.testing.assert_allclose(found, [first / 2, (1 - first) / 2, np.nan, np.nan, 1.0], rtol=1e-5)


def test_a_request_needs_the_token_if_one_is_set() -> None:
    assert _answer(_service(), _request(GOOD)) == [1.5]
    assert _answer(_service(token="secret"), _request(GOOD, authorization="Bearer secret")) == [1.5]
    for wrong in ("", "Bearer", "Bearer secre", "Bearer secret2", "Basic secret", "secret", "Bearer s\u00e9cret"):
        with pytest.raises(Refused) as refused:
            _answer(_service(token="secret"), _request(GOOD, authorization=wrong))
        assert refused.value.status == 401
        assert refused.value.headers == {"WWW-Authenticate": "Bearer"}
        assert "secret" not in refused.value.reason


@pytest.mark.parametrize("hostile", hostile_requests(), ids=lambda hostile: hostile.name)
def test_a_request_that_cannot_be_scored_is_refused_with_its_reason(hostile: Hostile) -> None:
    with pytest.raises(Refused) as refused:
        _answer(_service(), _request(hostile.body, hostile.content_type))
    assert refused.value.status == hostile.status
    assert hostile.reason in refused.value.reason
    assert " at 0x" not in refused.value.reason
    refused.value.reason.encode()  # an answer can hold it


@pytest.mark.parametrize("length", ["", "-1", "1e3", "²", "9" * 40, str(32 * 2**20 + 1)])
def test_a_body_of_unknown_or_excessive_length_is_refused_unread(length: str) -> None:
    async def never() -> AsyncIterator[bytes]:
        raise AssertionError("the body was read")
        yield b""

    with pytest.raises(Refused) as refused:
        _answer(_service(), _request(never(), **{"content-length": length}))
    assert refused.value.status in (411, 413)


def test_mutated_requests_are_scored_or_refused_and_nothing_stays_held() -> None:
    rng, service, statuses = random.Random(0), _service(), list[int]()
    for _ in range(600):
        try:
            _answer(service, _request(*mutated(rng)))
            statuses.append(200)
        except Refused as refused:
            statuses.append(refused.status)
    assert {200, 422} <= set(statuses) <= {200, 400, 413, 415, 422}
    assert [held.amount for held in (service._places, service._bodies, service._pixels)] == [0, 0, 0]
    assert [answer.status for answer in service.take_answers()] == statuses


@pytest.mark.parametrize(
    ("error", "status", "reason"),
    [
        (BackPressureError(1, 1), 503, "queue is full"),
        (RayActorError(), 503, "replica that scored this request died"),
        (RayTaskError("score", "traceback", InputError("a prompt must not be odd")), 422, "a prompt must not be odd"),
        (RayTaskError("score", "traceback", RuntimeError("secret path")), 500, "failed with RuntimeError"),
    ],
)
def test_errors_of_the_replicas_become_an_answer_with_a_reason(error: Exception, status: int, reason: str) -> None:
    async def fails(images: list[np.ndarray], prompts: list[str]) -> Scores:
        raise error

    with pytest.raises(Refused) as refused:
        _answer(_service(fails), _request(GOOD))
    assert refused.value.status == status
    assert reason in refused.value.reason
    assert "traceback" not in refused.value.reason and "secret" not in refused.value.reason
    assert status != 503 or int((refused.value.headers or {})["Retry-After"]) > 0


def test_large_images_reach_the_replica_scaled_down() -> None:
    shapes: list[tuple[int, ...]] = []

    async def score(images: list[np.ndarray], prompts: list[str]) -> Scores:
        shapes.extend(image.shape for image in images)
        return await _scores_1_5(images, prompts)

    files = [png(3000, 1500), png(64, 64), png(4000, 20)]
    _answer(_service(score), _request(json_body(files, ["a"] * 3)))
    _answer(_service(score), _request(form_body(files, ["a"] * 3), "multipart/form-data; boundary=B0UNDARY"))
    assert shapes[:3] == shapes[3:]
    assert shapes[1] == (64, 64, 3)
    assert all(height * width <= 64 * 64 for height, width, _ in shapes)
    assert shapes[0][1] == pytest.approx(2 * shapes[0][0], rel=0.05)


def test_slow_and_endless_bodies_get_a_deadline_and_hold_no_place() -> None:
    """One place, and forty bodies that never end: a good request is answered meanwhile."""
    service = _service(places=1, body_seconds=2.5, silent_seconds=0.4)

    async def silent() -> AsyncIterator[bytes]:
        yield b'{"images": ['
        await asyncio.sleep(60)

    async def trickle() -> AsyncIterator[bytes]:
        while True:
            yield b" "
            await asyncio.sleep(0.05)

    async def attack() -> list[Any]:
        slow = [
            asyncio.create_task(service.answer(_request(body))) for _ in range(20) for body in (silent(), trickle())
        ]
        await asyncio.sleep(0.1)
        assert (await service.answer(_request(GOOD))).mu.tolist() == [1.5]
        assert not any(task.done() for task in slow)
        await asyncio.sleep(1.2)
        assert [task.done() for task in slow] == [True, False] * 20  # silent, trickle
        return await asyncio.wait_for(asyncio.gather(*slow, return_exceptions=True), 20)

    for refused in asyncio.run(attack()):
        assert isinstance(refused, Refused) and refused.status == 408
        assert "must arrive within 2.5 s" in refused.reason
    assert service._bodies.amount == 0


def test_what_all_requests_hold_is_bounded() -> None:
    """Requests that wait for a replica: the places, the bytes of the bodies and of the images have limits."""
    release = asyncio.Event()

    async def waits(images: list[np.ndarray], prompts: list[str]) -> Scores:
        await release.wait()
        return await _scores_1_5(images, prompts)

    async def refused_beyond(limits: dict[str, int]) -> list[int]:
        service = _service(waits, **limits)
        release.clear()
        tasks = [asyncio.create_task(service.answer(_request(GOOD))) for _ in range(5)]
        while sum(task.done() for task in tasks) < 3:
            await asyncio.sleep(0.01)
        release.set()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert (await service.answer(_request(GOOD))).mu.tolist() == [1.5]  # all is given back
        return [result.status if isinstance(result, Refused) else 200 for result in results]

    for limits in ({"places": 2}, {"body_bytes": 2 * len(GOOD)}, {"pixel_bytes": 2 * 8 * 8 * 3}):
        statuses = asyncio.run(asyncio.wait_for(refused_beyond(limits), 30))
        assert sorted(statuses) == [200, 200, 503, 503, 503], limits


def test_a_client_that_leaves_gives_its_share_back() -> None:
    async def never(images: list[np.ndarray], prompts: list[str]) -> Scores:
        await asyncio.sleep(3600)
        raise AssertionError

    async def leave() -> None:
        service = _service(never, places=1)
        task = asyncio.create_task(service.answer(_request(GOOD)))
        while not service._pixels.amount:
            await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert [held.amount for held in (service._places, service._bodies, service._pixels)] == [0, 0, 0]
        assert str(service.take_answers()[0]).startswith("1.2.3.4  499")

    asyncio.run(leave())


def test_the_event_loop_stays_free_while_images_are_decoded() -> None:
    """Large images take long to decode; meanwhile another coroutine runs every few milliseconds."""
    service = _service()
    body = json_body([png(1100, 1100)] * 16, ["a"] * 16)

    async def longest_pause() -> float:
        task, longest = asyncio.create_task(service.answer(_request(body))), 0.0
        while not task.done():
            before = time.perf_counter()
            await asyncio.sleep(0.005)
            longest = max(longest, time.perf_counter() - before)
        await task
        return longest

    started = time.perf_counter()
    pause = asyncio.run(longest_pause())
    assert pause < max(0.5, 0.5 * (time.perf_counter() - started))


def test_a_small_request_does_not_wait_behind_large_ones() -> None:
    service = _service()
    large = json_body([png(2500, 2500)] * 4, ["a"] * 4)

    async def order() -> list[str]:
        finished: list[str] = []

        async def send(name: str, body: bytes) -> None:
            await service.answer(_request(body))
            finished.append(name)

        tasks = [asyncio.create_task(send("large", large)) for _ in range(3)]
        while not service._pixels.amount:
            await asyncio.sleep(0.01)
        await asyncio.gather(*tasks, send("small", GOOD))
        return finished

    assert asyncio.run(order()) == ["small", "large", "large", "large"]


def test_a_public_address_needs_a_token() -> None:
    with pytest.raises(SettingsError, match=r"serving\.host=0\.0\.0\.0 .* set serving\.token_variable"):
        load("scenes", ["serving.host=0.0.0.0"])
    assert load("scenes", ["serving.host=0.0.0.0", "serving.token_variable=TOKEN"]).serving.host == "0.0.0.0"
    for host in ("localhost", "127.0.0.2", "::1"):
        assert load("scenes", [f"serving.host={host}"]).serving.host == host

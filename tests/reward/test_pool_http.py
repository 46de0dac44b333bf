"""The reward pool over HTTP: scores, refusals with a reason, 503 for an overload, and clients that attack it."""

from __future__ import annotations

import asyncio
import http.client
import json
import random
import socket
import time
import urllib.error
import urllib.request
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import numpy as np
import psutil
import pytest
import ray
from PIL import Image

from actors.spatialscore.calibration import win_probabilities
from actors.workers.reward import start_pool
from actors.workers.reward_serving import answered_requests
from conf.serving import ServingSettings
from tests.support.hostile_requests import (
    FORM,
    JSON,
    Hostile,
    encoded,
    form_body,
    hostile_requests,
    json_body,
    mutated,
    png,
)
from tests.support.served_model import CALIBRATION, TOKEN_VARIABLE, ServedModel

pytestmark = pytest.mark.ray
PROMPTS = ("a red circle left of a blue square",) * 4
GOOD = json_body([png(64, 64)], [PROMPTS[0]])
HEALTH_S = 1.0
"""GET /health must answer within this time. It takes milliseconds; a loaded test machine adds to it."""


def test_json_and_multipart_requests_get_the_same_scores(served: ServedModel, images: np.ndarray) -> None:
    files = [encoded(Image.fromarray(image), "PNG") for image in images]
    by_json = json.loads(_post(served, json_body(files, list(PROMPTS)), JSON))
    by_form = json.loads(_post(served, form_body(files, list(PROMPTS)), FORM))
    expected = asyncio.run(served.pool.score(ray.put(images), PROMPTS))
    np.testing.assert_allclose(by_json["mu"], expected.mu, rtol=1e-3, atol=1e-5)
    assert by_form["mu"] == pytest.approx(by_json["mu"])
    assert by_form["sigma"] == pytest.approx(by_json["sigma"])
    assert by_json["win_probability"] == pytest.approx(
        win_probabilities(np.array(by_json["mu"]), PROMPTS, CALIBRATION.temperature).tolist(), abs=1e-4
    )


@pytest.mark.parametrize("hostile", hostile_requests()[::4], ids=lambda hostile: hostile.name)
def test_a_request_that_cannot_be_scored_is_refused_with_a_reason(served: ServedModel, hostile: Hostile) -> None:
    with pytest.raises(urllib.error.HTTPError) as refused:
        _post(served, hostile.body, hostile.content_type)
    assert refused.value.code == hostile.status
    assert hostile.reason in json.loads(refused.value.read())["detail"]


def test_nothing_but_the_health_is_answered_without_the_token(served: ServedModel) -> None:
    with pytest.raises(urllib.error.HTTPError) as refused:
        _post(served, b"{", JSON, token="another")
    assert refused.value.code == 401
    assert refused.value.headers["WWW-Authenticate"] == "Bearer"
    pages = {"/docs": 404, "/redoc": 404, "/openapi.json": 404, "/-/routes": 404, "/score": 405, "/health": 200}
    assert {path: _get(served, path)[0] for path in pages} == pages


def test_a_header_that_is_no_text_is_refused(served: ServedModel) -> None:
    for name in ("x-request-id", "x-session-id", "authorization", "content-type"):
        assert _get(served, "/health", **{name: "\xff\xfe"})[0] == 400
        assert _get(served, "/score", **{name: "\xff\xfe"})[0] == 400


@pytest.mark.parametrize("path", ["/score", "/health", "/-/routes", "/-/healthz"])
def test_a_web_socket_is_refused(served: ServedModel, path: str) -> None:
    upgrade = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13"}
    assert _get(served, path, **upgrade, **{"Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ=="})[0] == 403


@pytest.mark.parametrize(
    ("before", "endless"),
    [(b"GET /", b"a" * 1000), (b"GET /health HTTP/1.1\r\na: ", b"a" * 1000),
     (b"GET /health HTTP/1.1\r\n", b"a:\r\n" * 250),
     (b"POST /health HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n0\r\n", b"a:\r\n" * 250)],
    ids=["line", "header", "headers", "trailers"],
)  # fmt: skip
def test_headers_without_end_are_refused(served: ServedModel, before: bytes, endless: bytes) -> None:
    """They arrive before anybody can ask for the token."""
    with socket.create_connection(("127.0.0.1", served.port), timeout=30) as client:
        client.sendall(before)
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            client.sendall(endless * 10_000)
    assert _get(served, "/health", **{"x-long": "a" * 60_000})[0] == 200


def test_a_body_that_is_too_long_is_refused_before_it_is_sent(served: ServedModel) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=30)
    connection.putrequest("POST", "/score")
    connection.putheader("Authorization", f"Bearer {served.token}")
    connection.putheader("Content-Type", "application/json")
    connection.putheader("Content-Length", str(33 * 2**20))
    connection.endheaders()
    answer = connection.getresponse()
    assert answer.status == 413
    assert "at most" in answer.read().decode()
    connection.close()


def test_good_requests_beside_poison_get_their_scores(served: ServedModel) -> None:
    """Six clients send good requests, six send requests that the model's own code would raise for."""
    expected = json.loads(_post(served, GOOD, JSON))["mu"]
    poison = [json_body([png(201, 1)], ["a"]), json_body([png()], ["\ud800 left"])]

    def client(number: int) -> list[int]:
        statuses: list[int] = []
        for turn in range(12):
            try:
                answer = _post(served, poison[turn % 2] if number % 2 else GOOD, JSON)
                assert json.loads(answer)["mu"] == pytest.approx(expected, rel=1e-3, abs=1e-5)
                statuses.append(200)
            except urllib.error.HTTPError as error:
                statuses.append(error.code)
        return statuses

    with ThreadPoolExecutor(12) as clients:
        for number, statuses in enumerate(clients.map(client, range(12))):
            assert set(statuses) == {422 if number % 2 else 200}


def test_slow_bodies_and_decoding_leave_the_service_responsive(served: ServedModel) -> None:
    """300 bodies that never come, and requests whose images are as large as allowed."""
    header = (
        f"POST /score HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {served.token}\r\nContent-Type: {JSON}\r\n"
        'Content-Length: 1000000\r\n\r\n{"images": ['
    )
    large = json_body([png(4000, 4000, "1")] * 4, ["a red circle"] * 4)
    with ExitStack() as stack, ThreadPoolExecutor(4) as clients:
        slow = [stack.enter_context(socket.create_connection(("127.0.0.1", served.port), 30)) for _ in range(300)]
        for connection in slow:
            connection.sendall(header.encode())
        started = time.monotonic()
        decoding = [clients.submit(_post, served, large, JSON) for _ in range(4)]
        pauses: list[float] = []
        while time.monotonic() < started + 2 or not all(work.done() for work in decoding):
            status, seconds = _get(served, "/health")
            assert status == 200
            pauses.append(seconds)
            time.sleep(0.05)
        assert len(json.loads(_post(served, GOOD, JSON))["mu"]) == 1
        assert all(len(json.loads(work.result())["mu"]) == 4 for work in decoding)
        assert np.median(pauses) < HEALTH_S, sorted(pauses)[-5:]
        slow[0].settimeout(40)
        assert slow[0].recv(1000).startswith(b"HTTP/1.1 408")


def test_every_request_leaves_a_line_for_the_terminal(served: ServedModel) -> None:
    answered_requests("a run")
    _post(served, json_body([png(), png()], ["a", "b"]), JSON)
    with pytest.raises(urllib.error.HTTPError):
        _post(served, b"{", JSON)
    lines = [str(answer) for answer in answered_requests("a run")]  # slow requests of another test may end late
    (scored,) = (line for line in lines if line.endswith("  2 images"))
    (refused,) = (line for line in lines if "the body is not JSON" in line)
    assert scored.startswith("127.0.0.1  200  ") and refused.startswith("127.0.0.1  400  ")
    assert not {scored, refused} & {str(answer) for answer in answered_requests("a run")}, "a line is shown once"


@pytest.mark.slow
def test_ten_thousand_random_requests_get_no_5xx_and_leave_memory_flat(served: ServedModel) -> None:
    """Six clients, 10,000 mutated requests; good ones are answered in between, and at the end."""

    def client(seed: int, count: int) -> Counter[int]:
        rng, statuses = random.Random(seed), Counter[int]()
        connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=120)
        for _ in range(count):
            body, content_type = mutated(rng)
            headers = {"Authorization": f"Bearer {served.token}", "Content-Type": content_type}
            connection.request("POST", "/score", body, headers)
            answer = connection.getresponse()
            text = answer.read().decode()
            assert " at 0x" not in text and "Traceback" not in text, text
            statuses[answer.status] += 1
        connection.close()
        return statuses

    def attack(seed: int, count: int) -> Counter[int]:
        with ThreadPoolExecutor(6) as clients:
            return sum(clients.map(client, range(seed, seed + 6), [count // 6] * 6), Counter[int]())

    statuses = attack(0, 2_000)  # caches and allocators reach their size
    before = _serve_memory()
    statuses += attack(100, 8_010)
    after = _serve_memory()
    print(f"\n{statuses}; memory of Serve: {before / 2**20:.0f} -> {after / 2**20:.0f} MiB")
    assert statuses.total() >= 10_000
    assert set(statuses) <= {200, 400, 413, 415, 422}
    assert statuses[200] > 500 and statuses[422] > 500
    assert after - before < 100 * 2**20
    assert len(json.loads(_post(served, GOOD, JSON))["mu"]) == 1


def test_clients_that_are_refused_with_503_are_served_when_they_retry(
    served: ServedModel, images: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Eight clients for one replica with a queue of one. Must be the last test: it narrows the application."""
    monkeypatch.setenv(TOKEN_VARIABLE, served.token)
    narrow = ServingSettings(
        min_replicas=1,
        max_replicas=1,
        max_ongoing_requests=1,
        max_queued_requests=1,
        http=True,
        port=served.port,
        token_variable=TOKEN_VARIABLE,
    )
    start_pool(narrow, str(served.model), "a run")
    body = json_body([encoded(Image.fromarray(image), "PNG") for image in images] * 8, list(PROMPTS) * 8)
    refusals: list[tuple[int, int, str]] = []

    def client(number: int) -> list[float]:
        for _ in range(60):
            try:
                return json.loads(_post(served, body, JSON))["mu"]
            except urllib.error.HTTPError as refused:
                refusals.append((refused.code, _get(served, "/health")[0], refused.read().decode()))
                time.sleep(int(refused.headers["Retry-After"]) + 0.1 * number)
        raise AssertionError(f"client {number} was refused 60 times")

    with ThreadPoolExecutor(8) as clients:
        answers = list(clients.map(client, range(8)))
    assert refusals
    for status, health, text in refusals:
        assert (status, health) == (503, 200), text
        assert "send the same request again" in text
    for answer in answers:
        np.testing.assert_allclose(answer, answers[0], rtol=1e-3, atol=1e-5)


def _serve_memory() -> int:
    """Bytes of memory that the processes of Serve hold themselves."""
    processes = [process for process in psutil.Process().children(recursive=True) if "ray::" in process.name()]
    serving = [p for p in processes if "ServeReplica" in p.name() or "ProxyActor" in p.name()]
    assert len(serving) >= 4, [process.name() for process in processes]  # proxy, health, service, replicas
    return sum(process.memory_full_info().uss for process in serving)


def _get(served: ServedModel, path: str, **headers: str) -> tuple[int, float]:
    """Status and seconds of a request without the token."""
    started = time.perf_counter()
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=60)
    connection.request("GET", path, headers=headers)
    status = connection.getresponse().status
    connection.close()
    return status, time.perf_counter() - started


def _post(served: ServedModel, body: bytes, content_type: str, token: str = "") -> bytes:
    headers = {"Content-Type": content_type, "Authorization": f"Bearer {token or served.token}"}
    request = urllib.request.Request(f"http://127.0.0.1:{served.port}/score", body, headers)
    with urllib.request.urlopen(request, timeout=60) as answer:
        return answer.read()

"""The Serve pool: equal to the scorer, by reference, through the death of a replica, and over HTTP."""

from __future__ import annotations

import asyncio
import base64
import http.client
import io
import json
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import ray
import torch
from PIL import Image
from ray import serve

from actors.spatialscore import SpatialScorer
from actors.workers.reward import RewardPool, ScoreReplica, start_pool
from conf.serving import ServingSettings
from tests.support.tiny_reward import save_tiny_vlm, tiny_spatialscore

pytestmark = pytest.mark.ray
TOKEN = "token-of-the-test"
TEXTS = ("a red circle left of a blue square",) * 4


@pytest.fixture(scope="module")
def served(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RewardPool, Path, int]]:
    """A pool of two replicas that also answers HTTP, its model and its port."""
    folder = tmp_path_factory.mktemp("pool")
    save_tiny_vlm(folder / "vlm")
    tiny_spatialscore(folder / "vlm").save_pretrained(folder / "model")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    settings = ServingSettings(
        min_replicas=2, max_replicas=2, http=True, port=port, token_variable="SPATIALT2I_TEST_TOKEN"
    )
    serve.shutdown()  # tests before may have started it without HTTP, and so it would stay
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPATIALT2I_TEST_TOKEN", TOKEN)
        pool = start_pool(settings, str(folder / "model"), "a run")
    yield pool, folder / "model", port
    pool.stop()


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (4, 64, 64, 3), dtype=np.uint8)


def test_scores_by_reference_equal_the_scorer_s(served: tuple[RewardPool, Path, int], images: np.ndarray) -> None:
    pool, model, _ = served
    got = asyncio.run(pool.score(ray.put(images), TEXTS))
    wanted = SpatialScorer.from_pretrained(model).score(images=images, prompts=TEXTS)
    np.testing.assert_allclose(got.mu, wanted.mu, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(got.sigma, wanted.sigma, rtol=1e-3, atol=1e-5)
    with pytest.raises(ValueError, match="one text per image"):
        asyncio.run(pool.score(ray.put(images), TEXTS[:2]))


def test_no_score_is_lost_when_a_replica_is_killed(served: tuple[RewardPool, Path, int], images: np.ndarray) -> None:
    pool, _, _ = served
    assert pool.replicas() == 2
    references = [ray.put(np.roll(images, shift, axis=2)) for shift in range(60)]
    wanted = [asyncio.run(pool.score(reference, TEXTS)).mu for reference in references]

    async def under_load() -> list[np.ndarray]:
        calls = [asyncio.create_task(_mu(pool, reference)) for reference in references]
        await asyncio.sleep(0.05)
        ray.kill(_replicas()[0])
        return await asyncio.gather(*calls)

    got = asyncio.run(under_load())
    np.testing.assert_allclose(np.stack(got), np.stack(wanted), rtol=1e-3, atol=1e-5)


@pytest.mark.slow
def test_the_pool_grows_with_the_queue_and_shrinks_when_idle(
    served: tuple[RewardPool, Path, int], images: np.ndarray
) -> None:
    """Eight callers on one replica, then none. What they got while it grew and shrank are the same scores."""
    settings = ServingSettings(
        min_replicas=1, max_replicas=2, target_ongoing_requests=1, upscale_delay_s=1, downscale_delay_s=3
    )
    pool = start_pool(settings, str(served[1]), "an elastic run")
    reference, ended = ray.put(np.tile(images, (8, 1, 1, 1))), asyncio.Event()
    answers: list[np.ndarray] = []

    async def caller() -> None:
        while not ended.is_set():
            answers.append((await pool.score(reference, TEXTS * 8)).mu)

    async def until(replicas: int) -> None:
        while await asyncio.to_thread(pool.replicas) != replicas:
            await asyncio.sleep(0.2)

    async def wave() -> None:
        callers = [asyncio.create_task(caller()) for _ in range(8)]
        await asyncio.wait_for(until(2), 120)
        ended.set()
        await asyncio.gather(*callers)
        await asyncio.wait_for(until(1), 120)

    try:
        assert pool.replicas() == 1
        asyncio.run(wave())
    finally:
        pool.stop()
    assert len(answers) >= 8
    for answer in answers:
        np.testing.assert_allclose(answer, answers[0], rtol=1e-3, atol=1e-5)


def test_http_scores_json_and_multipart_alike(served: tuple[RewardPool, Path, int], images: np.ndarray) -> None:
    pool, _, port = served
    files = [_png(image) for image in images]
    body = json.dumps({"images": [base64.b64encode(f).decode() for f in files], "prompts": list(TEXTS)}).encode()
    by_json = json.loads(_post(port, body, "application/json"))
    by_form = json.loads(_post(port, _multipart(files, TEXTS), "multipart/form-data; boundary=B0UNDARY"))
    wanted = asyncio.run(pool.score(ray.put(images), TEXTS))
    np.testing.assert_allclose(by_json["mu"], wanted.mu, rtol=1e-3, atol=1e-5)
    assert by_form["mu"] == pytest.approx(by_json["mu"])
    assert by_form["sigma"] == pytest.approx(by_json["sigma"])


@pytest.mark.parametrize(
    ("body", "kind", "status", "says"),
    [
        (b"{", "application/json", 400, "no JSON"),
        (b'{"images": [], "prompts": []}', "application/json", 422, "1 to 64 images"),
        (b'{"images": ["!"], "prompts": ["a"]}', "application/json", 422, "no base64"),
        (b'{"images": ["AAAA"], "prompts": ["a"]}', "application/json", 422, "no readable PNG"),
        (b'{"images": ["AAAA"], "prompts": ["a", "b"]}', "application/json", 422, "every image needs its prompt"),
        (b'{"images": ["AAAA"], "prompts": [" "]}', "application/json", 422, "1 to 4000 characters"),
        (b"\x80\x04N.", "application/octet-stream", 415, "application/json or multipart"),
    ],
)
def test_http_refuses_what_it_cannot_score(
    served: tuple[RewardPool, Path, int], body: bytes, kind: str, status: int, says: str
) -> None:
    with pytest.raises(urllib.error.HTTPError) as refused:
        _post(served[2], body, kind)
    assert refused.value.code == status
    assert says in refused.value.read().decode()


def test_http_asks_for_the_token(served: tuple[RewardPool, Path, int]) -> None:
    with pytest.raises(urllib.error.HTTPError) as refused:
        _post(served[2], b"{", "application/json", token="another")
    assert refused.value.code == 401
    assert refused.value.headers["WWW-Authenticate"] == "Bearer"


def test_http_refuses_a_body_that_is_too_long_before_it_is_sent(served: tuple[RewardPool, Path, int]) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", served[2], timeout=30)
    connection.putrequest("POST", "/score")
    connection.putheader("Authorization", f"Bearer {TOKEN}")
    connection.putheader("Content-Type", "application/json")
    connection.putheader("Content-Length", str(33 * 2**20))
    connection.endheaders()
    answer = connection.getresponse()
    assert answer.status == 413
    assert "at most" in answer.read().decode()
    connection.close()


def test_overload_is_answered_503_and_who_comes_again_is_served(
    served: tuple[RewardPool, Path, int], images: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Real clients, more than replica and queue take. The last test here: it leaves the application little room."""
    _, model, port = served
    monkeypatch.setenv("SPATIALT2I_TEST_TOKEN", TOKEN)
    narrow = ServingSettings(
        min_replicas=1, max_replicas=1, max_ongoing_requests=1, max_queued_requests=1, http=True, port=port,
        token_variable="SPATIALT2I_TEST_TOKEN",
    )  # fmt: skip
    start_pool(narrow, str(model), "a run")
    many = [base64.b64encode(_png(image)).decode() for image in images] * 16
    body = json.dumps({"images": many, "prompts": list(TEXTS) * 16}).encode()
    waits: list[int] = []

    def client(number: int) -> list[float]:
        for _ in range(60):
            try:
                return json.loads(_post(port, body, "application/json"))["mu"]
            except urllib.error.HTTPError as refused:
                assert refused.code == 503, refused.read()
                told = refused.read().decode()  # by our application, or by Serve's proxy, which names no time
                assert "send the same again" in told or "backpressure" in told, told
                waits.append(int(refused.headers.get("Retry-After", 1)))
                time.sleep(waits[-1] + 0.1 * number)
        raise AssertionError(f"client {number} was refused 60 times")

    with ThreadPoolExecutor(8) as clients:
        answers = list(clients.map(client, range(8)))
    assert waits and min(waits) > 0
    for answer in answers:
        np.testing.assert_allclose(answer, answers[0], rtol=1e-3, atol=1e-5)


def test_a_replica_whose_weights_change_is_not_healthy(served: tuple[RewardPool, Path, int]) -> None:
    replica = ScoreReplica(str(served[1]), ServingSettings())
    replica.check_health()
    with torch.no_grad():
        replica.scorer.model.head.layers[2].bias.add_(1.0)
    with pytest.raises(RuntimeError, match="weights"):
        replica.check_health()
    with torch.no_grad():
        replica.scorer.model.head.layers[2].bias.fill_(float("nan"))
    with pytest.raises(RuntimeError, match="nan"):
        replica.check_health()


async def _mu(pool: RewardPool, reference: ray.ObjectRef) -> np.ndarray:
    return (await pool.score(reference, TEXTS)).mu


def _replicas() -> list[ray.actor.ActorHandle]:
    named = ray.util.list_named_actors(all_namespaces=True)
    return [ray.get_actor(**actor) for actor in named if "#ScoreReplica#" in actor["name"]]


def _png(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def _multipart(files: list[bytes], texts: tuple[str, ...]) -> bytes:
    parts = [
        b'--B0UNDARY\r\nContent-Disposition: form-data; name="images"; filename="i.png"\r\n'
        b"Content-Type: image/png\r\n\r\n" + file + b"\r\n"
        for file in files
    ]
    parts += [
        b'--B0UNDARY\r\nContent-Disposition: form-data; name="prompts"\r\n\r\n' + text.encode() + b"\r\n"
        for text in texts
    ]
    return b"".join(parts) + b"--B0UNDARY--\r\n"


def _post(port: int, body: bytes, kind: str, token: str = TOKEN) -> bytes:
    headers = {"Content-Type": kind, "Authorization": f"Bearer {token}"}
    request = urllib.request.Request(f"http://127.0.0.1:{port}/score", body, headers)
    with urllib.request.urlopen(request, timeout=60) as answer:
        return answer.read()

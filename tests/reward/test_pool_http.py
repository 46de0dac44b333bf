"""The reward pool over HTTP: scores, refusals with a reason, and 503 for an overload."""

from __future__ import annotations

import asyncio
import base64
import http.client
import io
import json
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import ray
from PIL import Image

from actors.workers.reward import start_pool
from conf.serving import ServingSettings
from tests.support.served_model import TOKEN_VARIABLE, ServedModel

pytestmark = pytest.mark.ray
PROMPTS = ("a red circle left of a blue square",) * 4


def test_json_and_multipart_requests_get_the_same_scores(served: ServedModel, images: np.ndarray) -> None:
    files = [_png(image) for image in images]
    body = json.dumps({"images": [base64.b64encode(f).decode() for f in files], "prompts": list(PROMPTS)}).encode()
    by_json = json.loads(_post(served, body, "application/json"))
    by_form = json.loads(_post(served, _multipart(files, PROMPTS), "multipart/form-data; boundary=B0UNDARY"))
    expected = asyncio.run(served.pool.score(ray.put(images), PROMPTS))
    np.testing.assert_allclose(by_json["mu"], expected.mu, rtol=1e-3, atol=1e-5)
    assert by_form["mu"] == pytest.approx(by_json["mu"])
    assert by_form["sigma"] == pytest.approx(by_json["sigma"])


@pytest.mark.parametrize(
    ("body", "content_type", "status", "reason"),
    [
        (b"{", "application/json", 400, "not JSON"),
        (b'{"images": [], "prompts": []}', "application/json", 422, "1 to 64 images"),
        (b'{"images": ["!"], "prompts": ["a"]}', "application/json", 422, "not base64"),
        (b'{"images": ["AAAA"], "prompts": ["a"]}', "application/json", 422, "not a readable PNG"),
        (b'{"images": ["AAAA"], "prompts": ["a", "b"]}', "application/json", 422, "every image needs its prompt"),
        (b'{"images": ["AAAA"], "prompts": [" "]}', "application/json", 422, "1 to 4000 characters"),
        (b"\x80\x04N.", "application/octet-stream", 415, "application/json or multipart"),
    ],
)
def test_a_request_that_cannot_be_scored_is_refused_with_a_reason(
    served: ServedModel, body: bytes, content_type: str, status: int, reason: str
) -> None:
    with pytest.raises(urllib.error.HTTPError) as refused:
        _post(served, body, content_type)
    assert refused.value.code == status
    assert reason in refused.value.read().decode()


def test_a_request_with_a_wrong_token_is_refused(served: ServedModel) -> None:
    with pytest.raises(urllib.error.HTTPError) as refused:
        _post(served, b"{", "application/json", token="another")
    assert refused.value.code == 401
    assert refused.value.headers["WWW-Authenticate"] == "Bearer"


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
    encoded = [base64.b64encode(_png(image)).decode() for image in images] * 16
    body = json.dumps({"images": encoded, "prompts": list(PROMPTS) * 16}).encode()
    waits: list[int] = []
    refusals: list[tuple[int, str]] = []

    def client(number: int) -> list[float]:
        for _ in range(60):
            try:
                return json.loads(_post(served, body, "application/json"))["mu"]
            except urllib.error.HTTPError as refused:
                # From our application, or from Serve's proxy, which sends no Retry-After.
                refusals.append((refused.code, refused.read().decode()))
                waits.append(int(refused.headers.get("Retry-After", 1)))
                time.sleep(waits[-1] + 0.1 * number)
        raise AssertionError(f"client {number} was refused 60 times")

    with ThreadPoolExecutor(8) as clients:
        answers = list(clients.map(client, range(8)))
    assert min(waits) > 0
    for code, text in refusals:
        assert code == 503, text
        assert "send the same request again" in text or "backpressure" in text, text
    for answer in answers:
        np.testing.assert_allclose(answer, answers[0], rtol=1e-3, atol=1e-5)


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


def _post(served: ServedModel, body: bytes, content_type: str, token: str = "") -> bytes:
    headers = {"Content-Type": content_type, "Authorization": f"Bearer {token or served.token}"}
    request = urllib.request.Request(f"http://127.0.0.1:{served.port}/score", body, headers)
    with urllib.request.urlopen(request, timeout=60) as answer:
        return answer.read()

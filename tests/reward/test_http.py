"""What POST /score answers, without Ray: the token, a full queue, a dead replica, decompression bombs."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import struct
import zlib
from types import SimpleNamespace

import numpy as np
import pytest
from fastapi import HTTPException, Request
from PIL import Image
from ray.exceptions import RayActorError
from ray.serve.exceptions import BackPressureError

from actors.services.endpoint import Key
from actors.types import Scores
from actors.workers.reward_http import score_request
from conf import SettingsError, load


def _png_header(width: int, height: int) -> bytes:
    """A PNG file whose header claims a size, without its pixels."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", b"")


def _chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def _valid_png() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "PNG")
    return buffer.getvalue()


def _post(file: bytes, *, authorization: str = "", token: str = "", error: Exception | None = None) -> Scores:
    """The answer if the replica scores 1.5, or raises `error`."""

    async def score(images: list[np.ndarray], prompts: list[str]) -> Scores:
        if error:
            raise error
        return Scores(np.full(len(images), 1.5, np.float32), np.ones(len(prompts), np.float32))

    body = json.dumps({"images": [base64.b64encode(file).decode()], "prompts": ["a red circle"]}).encode()
    headers = {"content-type": "application/json", "content-length": str(len(body)), "authorization": authorization}
    scope = {"type": "http", "headers": [(name.encode(), value.encode()) for name, value in headers.items()]}

    async def receive() -> dict[str, object]:
        return {"type": "http.request", "body": body, "more_body": False}

    replica = SimpleNamespace(score=SimpleNamespace(remote=score))
    return asyncio.run(score_request(Request(scope, receive), replica, Key(token) if token else None))  # pyright: ignore[reportArgumentType]


def test_a_request_needs_the_token_if_one_is_set() -> None:
    assert _post(_valid_png()).mu.tolist() == [1.5]
    assert _post(_valid_png(), token="secret", authorization="Bearer secret").mu.tolist() == [1.5]
    for wrong in ("", "Bearer", "Bearer secre", "Bearer secret2", "Basic secret", "secret", "Bearer s\u00e9cret"):
        with pytest.raises(HTTPException) as refused:
            _post(_valid_png(), token="secret", authorization=wrong)
        assert refused.value.status_code == 401
        assert refused.value.headers == {"WWW-Authenticate": "Bearer"}
        assert "secret" not in refused.value.detail


@pytest.mark.parametrize(
    ("error", "reason"),
    [(BackPressureError(1, 1), "queue is full"), (RayActorError(), "replica that scored this request died")],
)
def test_a_request_that_no_replica_accepts_may_be_sent_again(error: Exception, reason: str) -> None:
    with pytest.raises(HTTPException) as refused:
        _post(_valid_png(), error=error)
    assert refused.value.status_code == 503
    assert reason in refused.value.detail
    assert int((refused.value.headers or {})["Retry-After"]) > 0


@pytest.mark.parametrize(
    ("file", "status", "reason"),
    [
        (_png_header(5000, 5000), 413, "5000 x 5000 pixels"),
        (_png_header(2**16, 2**16), 413, "over 16000000 pixels"),  # Pillow itself refuses to open it
        (_valid_png()[:-30], 422, "not a readable PNG"),
    ],
    ids=["large", "decompression bomb", "truncated"],
)
def test_an_image_that_is_too_large_or_broken_is_refused(file: bytes, status: int, reason: str) -> None:
    with pytest.raises(HTTPException) as refused:
        _post(file)
    assert refused.value.status_code == status
    assert reason in refused.value.detail


def test_a_public_address_needs_a_token() -> None:
    with pytest.raises(SettingsError, match=r"serving\.host=0\.0\.0\.0 .* set serving\.token_variable"):
        load("scenes", ["serving.host=0.0.0.0"])
    assert load("scenes", ["serving.host=0.0.0.0", "serving.token_variable=TOKEN"]).serving.host == "0.0.0.0"
    for host in ("localhost", "127.0.0.2", "::1"):
        assert load("scenes", [f"serving.host={host}"]).serving.host == host

"""Requests that nobody should send: each is refused, and the server goes on for everybody else."""

from __future__ import annotations

import itertools
import json
import random
import socket
import string
import time
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import requests

from pipelines.common.http_limits import BODY_SECONDS, HEADER_SECONDS, MAX_BODY_BYTES
from pipelines.common.paths import RunPaths
from tests.support.review_server import ReviewClient, ReviewServer, answers_to, saved_votes, serving_review
from tests.support.scene_pairs import write_scene_pairs

JSON = {"Content-Type": "application/json"}
BODIES: dict[str, bytes] = {
    "NaN": b'{"token": NaN}',
    "infinity": b'{"token": Infinity}',
    "half a surrogate pair": b'{"token": "\\ud800"}',
    "half a surrogate pair as a key": b'{"\\ud800": 1, "token": "\\udfff"}',
    "not UTF-8": b'{"token": "\xff\xfe"}',
    "UTF-16": '{"token": "x"}'.encode("utf-16"),
    "deep": b"[" * 60_000,
    "deep object": b'{"token":' * 6_000,
    "a long number": b'{"token": ' + b"9" * 10_000 + b"}",
    "a large exponent": b'{"token": 1e999999}',
    "null": b"null",
    "a list": b"[]",
    "empty": b"",
    "NUL": b"\0",
    "half": b'{"token": "x',
    "twice": b'{"token": "x", "token": {}}',
    "too large": b'{"token": "' + b"x" * (2 * MAX_BODY_BYTES) + b'"}',
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ReviewServer]:
    run_dir = tmp_path_factory.mktemp("hostile")
    write_scene_pairs(run_dir / "preferences", 40)
    with serving_review(run_dir, "review.gold_fraction=0", "review.annotators=[ann,ben]") as started:
        yield started


@pytest.fixture(scope="module")
def ann(server: ReviewServer) -> ReviewClient:
    return server.client("ann")


@pytest.mark.parametrize("name", BODIES)
@pytest.mark.parametrize("path", ["/api/login", "/api/vote"])
@pytest.mark.parametrize("known", [False, True], ids=["a stranger", "an annotator"])
def test_a_body_that_is_no_request_is_refused(
    server: ReviewServer, ann: ReviewClient, path: str, name: str, known: bool
) -> None:
    http = ann.http if known else requests.Session()
    for headers in (JSON, {"Content-Type": "text/plain"}, {"Content-Type": ""}):
        response = http.post(server.address + path, data=BODIES[name], headers=headers, timeout=30)
        assert 400 <= response.status_code < 500, response.text
        if name == "too large":
            assert response.status_code == 413 and str(MAX_BODY_BYTES) in response.json()["detail"]
        assert isinstance(response.json()["detail"], str) and len(response.content) < 2000


@pytest.mark.parametrize(
    "changed",
    [
        {"seconds": float("nan")},
        {"seconds": float("-inf")},
        {"seconds": "long"},
        {"first": []},
        {"first": ["yes"] * 500},
        {"first": ["maybe"] * 3},
        {"first": "yes"},
        {"second": [None]},
        {"vote_id": "short"},
        {"vote_id": "\0" * 8},
        {"vote_id": "x" * 65},
        {"pair_id": "'; DROP TABLE votes; --"},
        {"pair_id": ""},
        {"pair_id": "pair-00000039\0"},
        {"pair_id": "x" * 10_000},
    ],
    ids=str,
)
def test_a_vote_that_is_wrong_is_refused_and_the_right_one_is_saved(
    server: ReviewServer, ann: ReviewClient, changed: dict[str, object]
) -> None:
    item = ann.post("next").json()["item"]
    before = saved_votes(server.run_dir, "ann")
    vote = {"vote_id": uuid.uuid4().hex, **answers_to(item), **changed}
    response = ann.http.post(f"{server.address}/api/vote", data=json.dumps(vote), headers=JSON, timeout=30)
    if changed == {"vote_id": "\0" * 8}:  # odd, and as good as any other id
        assert response.ok and ann.post("undo").ok
    else:
        assert response.status_code == 422, response.text
    assert saved_votes(server.run_dir, "ann") == before


def test_only_a_pair_on_the_own_screen_takes_a_vote(server: ReviewServer, ann: ReviewClient) -> None:
    item = ann.post("next").json()["item"]
    others = [f"pair-{number:08d}" for number in range(40)]
    others.remove(item["pair_id"])
    for pair_id in others[:5]:
        response = ann.post("vote", vote_id=uuid.uuid4().hex, **{**answers_to(item), "pair_id": pair_id})
        assert response.status_code in (409, 422), response.text  # 422: it has another number of claims
    assert not saved_votes(server.run_dir, "ann")


def _ask(server: ReviewServer, request: bytes, seconds: float = 5.0) -> bytes:
    """Sends bytes over a connection of its own and returns what comes back."""
    host, _, port = server.address.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=seconds) as connection:
        connection.sendall(request)
        answer = b""
        try:
            while part := connection.recv(65536):
                answer += part
                if b"\r\n\r\n" in answer and b"content-length: 0" not in answer.lower() and len(part) < 65536:
                    break
        except (TimeoutError, ConnectionResetError):
            pass
    return answer


@pytest.mark.parametrize(
    "request_line",
    [
        b"GET / HTTP/x",
        b"GET /%00 HTTP/1.1",
        b"GET /page/%00 HTTP/1.1",
        b"GET /page/..%2f..%2fapp.py HTTP/1.1",
        b"GET /page/" + b"a" * 5000 + b" HTTP/1.1",
        b"GET /image?pair=%ff%fe&key=%00 HTTP/1.1",
        b"GET /image?pair=" + b"%F0%9F" * 500 + b"&key=x HTTP/1.1",
        b"GET /image HTTP/1.1",
        b"GET \xff\xfe HTTP/1.1",
        b"BREW /api/me HTTP/1.1",
        b"POST /api/login HTTP/1.1\r\nContent-Length: -1",
        b"POST /api/login HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 6",
        b"POST /api/login HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nZZ",
        b"GET /api/me HTTP/1.1\r\nCookie: spatialt2i_review=\xff\x00; =; ;;;" + b"a=b;" * 500,
        b"GET / HTTP/1.1\r\nX: " + b"x" * 200_000,
        b"GET /api/me HTTP/1.1\r\nUpgrade: websocket\r\nConnection: Upgrade",
    ],
    ids=lambda line: line[:40].decode("latin-1"),
)
def test_malformed_http_is_refused(server: ReviewServer, request_line: bytes) -> None:
    line, _, rest = request_line.partition(b"\r\n")
    answer = _ask(server, line + b"\r\nHost: x\r\n" + rest + b"\r\n\r\n")
    assert not answer or answer.startswith(b"HTTP/1.1 4"), answer[:200]
    assert requests.get(server.address, timeout=10).ok


@pytest.mark.slow
def test_slow_requests_end_and_delay_nobody(server: ReviewServer, ann: ReviewClient) -> None:
    host, _, port = server.address.removeprefix("http://").partition(":")
    head = b"POST /api/login HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 50\r\n\r\n{"
    starts = [head, b"", b"POST /api/login HTTP/1.1\r\nHost:"] * 50
    connections = [socket.create_connection((host, int(port)), timeout=60) for _ in starts]
    for connection, start in zip(connections, starts, strict=True):
        connection.sendall(start)
    began = time.monotonic()
    assert ann.post("next").ok and requests.get(server.address, timeout=10).ok
    assert time.monotonic() - began < BODY_SECONDS, "others do not wait for them"
    for connection, start in zip(connections, starts, strict=True):
        answer = connection.recv(65536)
        assert answer.startswith(b"HTTP/1.1 408 ") if start == head else answer == b""
        connection.close()
    assert time.monotonic() - began < HEADER_SECONDS + 30


def test_a_pair_may_have_any_id(tmp_path: Path) -> None:
    ids = ["a/b", "../up", "a?b=c&d", "100%", "#", "ü ☃", "a\nb", "'\"<b>", "x" * 300, "a//b\\c", "."]
    write_scene_pairs(tmp_path / "preferences", len(ids))
    for path in (tmp_path / "preferences").glob("*.parquet"):
        table = pq.read_table(path)
        numbers = [int(name.removeprefix("pair-")) for name in table["pair_id"].to_pylist()]
        column = pa.array([ids[number] for number in numbers], pa.string())
        pq.write_table(table.set_column(table.schema.get_field_index("pair_id"), "pair_id", column), path)
    with serving_review(tmp_path, "review.gold_fraction=0") as server:
        client = server.client("annotator_1")
        seen: list[str] = []
        reply = client.post("next").json()
        while item := reply["item"]:
            assert all(client.image(path).startswith(b"\x89PNG") for path in item["images"])
            saved = client.post("vote", vote_id=uuid.uuid4().hex, **answers_to(item))
            assert saved.ok, saved.text
            seen.append(item["pair_id"])
            reply = saved.json()
    assert sorted(seen) == sorted(ids)
    assert len(saved_votes(tmp_path)) == len(ids)


def _random_request(draw: random.Random, item: dict[str, object]) -> tuple[str, str, dict[str, str], bytes]:
    """Method, path, headers and body of a request that is wrong in a random way."""
    text = "".join(draw.choices(string.printable + "\0\ud800☃é", k=draw.randrange(40)))
    values = [None, True, -1, 1e308, float("nan"), float("inf"), text, [text], {text: text}, [[[]]] * 9, 10**400, ""]
    vote: dict[str, object] = {"vote_id": uuid.uuid4().hex, **item, "token": text}
    for key in draw.sample(sorted(vote), draw.randrange(1, len(vote))):
        vote[key] = draw.choice(values)
    body = json.dumps(vote).encode("utf-8", "surrogatepass")
    for _ in range(draw.choice((0, 0, 1, 5))):
        at = draw.randrange(len(body))
        body = body[:at] + draw.randbytes(draw.randrange(4)) + body[at + draw.randrange(4) :]
    if draw.random() < 0.03:
        body = body * (1 + 2 * MAX_BODY_BYTES // len(body))
    method, path = draw.choice(
        [
            *[("POST", f"/api/{name}") for name in ("login", "vote", "vote", "undo", "next")],
            ("GET", "/api/me"),
            ("GET", "/image?pair=%ff&key=" + "%00" * draw.randrange(9)),
            ("GET", "/page/" + "%2e%2e%2f" * draw.randrange(9)),
            ("GET", "/overview?" + "x" * draw.randrange(3000)),
            (draw.choice(["PUT", "PATCH", "DELETE", "OPTIONS", "HEAD"]), "/api/login"),
        ]
    )
    headers = {"Content-Type": draw.choice(["application/json", "application/json", "text/plain", "\x80"])}
    if draw.random() < 0.1:
        headers["X-CSRF-Token"] = draw.randbytes(9).hex()
    return method, path, headers, body


@pytest.mark.slow
def test_random_requests_give_no_5xx_and_keep_the_memory(server: ReviewServer) -> None:
    draw = random.Random(0)
    annotator, stranger = server.client("ben"), requests.Session()
    item = answers_to(annotator.post("next").json()["item"])
    statuses: dict[int, int] = {}
    before = 0
    for number in range(3200):
        method, path, headers, body = _random_request(draw, item)
        http = annotator.http if number % 2 else stranger
        response = http.request(method, server.address + path, data=body, headers=headers, timeout=30)
        statuses[response.status_code] = statuses.get(response.status_code, 0) + 1
        if number == 1000:
            before = server.memory
    assert not [status for status in statuses if status >= 500], statuses
    assert server.memory - before < 20e6, f"grew from {before} to {server.memory} bytes"
    assert not server.errors
    print(f"\n{statuses}, {before} -> {server.memory} bytes")
    large = (b"x" * 65536 for _ in itertools.repeat(None, 3200))  # 200 MB, without a length
    with suppress(requests.ConnectionError, requests.exceptions.ChunkedEncodingError):  # it stops to listen
        assert requests.post(f"{server.address}/api/login", data=large, timeout=60).status_code == 413
    assert server.memory - before < 20e6
    assert RunPaths(server.run_dir).review_database.stat().st_size < 2e6

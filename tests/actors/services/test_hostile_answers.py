"""Whatever a service answers, a call ends in one of its errors, in time, in bounded memory, and shows no key."""

from __future__ import annotations

import asyncio
import gzip
import json
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from actors.services import transport
from actors.services.budget import BudgetTracker, LocalBudget
from actors.services.endpoint import AnswerTruncated, ContentRefused, Endpoint, EndpointError, RetriesExhausted
from actors.services.keys import Key, key_in
from actors.services.responses import MAX_RETRY_AFTER_S, Response, deserialize, retry_after_seconds, serialize
from conf import SettingsError
from conf.endpoints import WriterSettings
from tests.support.openai_server import Behaviour, serving

KEY = Key("sk-FAKE-0123456789abcdef")
ANSWER: dict[str, Any] = {
    "id": "1",
    "object": "chat.completion",
    "created": 0,
    "model": "m",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "7"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15},
}

Respond = Callable[[Any], None]


def chat_answer(**changes: Any) -> bytes:
    """An answer with other values, by key: of the message, the choice, the usage, or the answer itself."""
    answer = json.loads(json.dumps(ANSWER))
    for key, value in changes.items():
        places = (answer["choices"][0]["message"], answer["choices"][0], answer["usage"], answer)
        next((place for place in places if key in place), places[0])[key] = value
    return json.dumps(answer).encode()


def sends(content: bytes, status: int = 200, **headers: str) -> Respond:
    """Answers with these bytes."""
    return lambda handler: handler._send(status, content, {name.replace("_", "-"): v for name, v in headers.items()})


def trickles(handler: Any) -> None:
    """Sends a byte now and then, so that no part of the answer is late but the whole never comes."""
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    for _ in range(100):
        handler.wfile.write(b" ")
        handler.wfile.flush()
        time.sleep(0.05)


def sends_without_end(handler: Any) -> None:
    """Sends an answer without a length, until the client hangs up."""
    handler.send_response(200)
    handler.send_header("Content-Type", "application/json")
    handler.end_headers()
    for _ in range(4000):
        handler.wfile.write(b" " * 100_000)


def ask(respond: Respond, monkeypatch: pytest.MonkeyPatch, cache: str = "", **overrides: Any) -> str:
    """The text of one call to a server that answers like this."""

    def do_post(handler: Any) -> None:
        handler.rfile.read(int(handler.headers["Content-Length"]))
        try:
            respond(handler)
        except OSError:
            handler.close_connection = True

    monkeypatch.setattr("tests.support.openai_server._Handler.do_POST", do_post)
    tracker = BudgetTracker()
    with serving(Behaviour()) as url:
        settings = WriterSettings(url=url, **{"retries": 0, "timeout": 5.0, **overrides})

        async def chat() -> str:
            return await Endpoint(settings, KEY, LocalBudget(tracker), cache).chat([{"role": "user", "content": "?"}])

        try:
            return asyncio.run(chat())
        except RetriesExhausted:
            assert tracker.usage().calls == 1
            raise
        finally:
            assert 0 <= tracker.usage().tokens <= 10**9


HOSTILE: dict[str, Respond] = {
    "nesting": sends(b"[" * 100_000),
    "nesting in an object": sends(b'{"choices": ' + b"[" * 100_000),
    "no JSON": sends(b"<html>a proxy's page</html>", Content_Type="text/html"),
    "nothing": sends(b""),
    "status 204": sends(b"", 204),
    "null": sends(b"null"),
    "a list": sends(b"[1]"),
    "no choices": sends(chat_answer(choices=[])),
    "choices are null": sends(chat_answer(choices=None)),
    "a choice is a text": sends(chat_answer(choices=["x"])),
    "a message is null": sends(chat_answer(message=None)),
    "content is a number": sends(chat_answer(content=7)),
    "content is a list": sends(chat_answer(content=[{"type": "text", "text": "x"}])),
    "a surrogate": sends(chat_answer(content="\ud800")),
    "refusal is an object": sends(chat_answer(refusal={"a": 1})),
    "tokens are NaN": sends(chat_answer(prompt_tokens=float("nan"))),
    "tokens are infinite": sends(chat_answer(prompt_tokens=float("inf"))),
    "tokens are negative": sends(chat_answer(prompt_tokens=-(10**9))),
    "tokens are a text": sends(chat_answer(prompt_tokens="ten")),
    "tokens are huge": sends(chat_answer(prompt_tokens=10**30)),
    "usage is a list": sends(chat_answer(usage=[1])),
    "not UTF-8": sends(b'{"choices": "\xff"}'),
    "a huge number": sends(b'{"choices": ' + b"9" * 10_000 + b"}"),
    "compressed": sends(gzip.compress(chat_answer()), Content_Encoding="gzip"),
    "a bomb": sends(gzip.compress(bytes(10**7)), Content_Encoding="gzip"),
    "an unknown encoding": sends(chat_answer(), Content_Encoding="zstd"),
    "a charset that decompresses": sends(zlib.compress(bytes(10**7)), Content_Type="text/html; charset=zlib"),
    "a charset of bytes in an error": sends(b"00", 500, Content_Type="application/json; charset=hex"),
    "without end": sends_without_end,
    "nesting in an error": sends(b"[" * 100_000, 500),
    "a bomb in an error": sends(gzip.compress(bytes(10**7)), 500, Content_Encoding="gzip"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_an_answer_that_is_none_is_an_unanswered_call(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "MAX_ANSWER_BYTES", 10**6)
    with pytest.raises(RetriesExhausted) as failed:
        ask(HOSTILE[name], monkeypatch)
    assert "writer at http" in str(failed.value) and len(str(failed.value)) < 300
    assert KEY.value not in repr(failed.value)


def test_a_good_answer_is_read_and_the_key_in_it_is_masked(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ask(sends(chat_answer()), monkeypatch) == "7"
    assert ask(sends(chat_answer(content=f"the key is {KEY.value}!")), monkeypatch) == "the key is ***!"
    assert ask(sends(chat_answer(usage=None)), monkeypatch) == "7"
    assert ask(sends(chat_answer(), Content_Encoding="identity"), monkeypatch) == "7"


@pytest.mark.parametrize("before", [270, 280, 290, 299])
def test_a_key_at_the_end_of_a_message_is_masked_before_the_message_is_cut(
    before: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = f"{'x' * before}{KEY.value} is wrong"
    for status, error, raised in (
        (401, {"message": text}, EndpointError),
        (400, {"message": text, "code": "content_policy_violation"}, ContentRefused),
    ):
        with pytest.raises(raised) as failed:
            ask(sends(json.dumps({"error": error}).encode(), status), monkeypatch)
        assert "x" * before in str(failed.value) and "sk-" not in str(failed.value)
    with pytest.raises(ContentRefused) as refused:
        ask(sends(chat_answer(refusal=text)), monkeypatch)
    assert "x" * before in str(refused.value) and "sk-" not in str(refused.value)


def test_an_answer_in_trickles_ends_with_its_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    start = time.monotonic()
    with pytest.raises(RetriesExhausted, match=r"no answer within 0\.5 s"):
        ask(trickles, monkeypatch, timeout=0.5)
    assert time.monotonic() - start < 4.0


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_is_an_error_and_is_not_followed(status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(EndpointError, match=rf"answers {status} \(a redirect to /elsewhere.*check writer\.url"):
        ask(sends(b"", status, Location="/elsewhere"), monkeypatch)


def test_a_truncated_answer_is_named_and_not_cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AnswerTruncated, match=r"limit of tokens \(finish_reason=length\)"):
        ask(sends(chat_answer(content="", finish_reason="length")), monkeypatch, str(tmp_path), retries=5)
    assert not any(path.is_file() for path in tmp_path.rglob("*"))
    assert ask(sends(chat_answer()), monkeypatch, str(tmp_path)) == "7"


@pytest.mark.parametrize(
    "content",
    [b"", b"{}", b"{}\n7", b'{"refused": ""', b"[1]\n7", b"\xff\n7", b"[" * 100_000 + b"\n7", b'{"refused": 7}\n7',
     b'{"refused": "", "tokens_in": 1, "tokens_out": -1, "images": 0}\n7'],
    ids=lambda content: repr(content)[:40],
)  # fmt: skip
def test_a_damaged_cached_answer_is_asked_for_again(
    content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert ask(sends(chat_answer()), monkeypatch, str(tmp_path)) == "7"
    (file,) = (path for path in tmp_path.rglob("*") if path.is_file())
    whole = file.read_bytes()
    file.write_bytes(content)
    assert ask(sends(chat_answer()), monkeypatch, str(tmp_path)) == "7"
    assert file.read_bytes() == whole and "is asked for again" in caplog.text
    assert deserialize(whole) == Response(b"7", "", 10, 5, 0) == deserialize(serialize(deserialize(whole)))


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("3", 3.0), ("-1", 0.0), ("inf", MAX_RETRY_AFTER_S), ("1e308", MAX_RETRY_AFTER_S), ("nan", 0.0), ("soon", 0.0),
     ("", 0.0), ("Fri, 31 Dec 9999 23:59:59 GMT", MAX_RETRY_AFTER_S), ("Fri, 31 Dec 0000 23:59:59 GMT", 0.0),
     ("Mon, 01 Jan 1990 00:00:00 -2359", 0.0), ("9" * 400, MAX_RETRY_AFTER_S)],
)  # fmt: skip
def test_a_wait_that_a_service_asks_for_is_bounded(value: str, seconds: float) -> None:
    assert retry_after_seconds({"retry-after": value}) == seconds


def test_a_key_with_a_newline_at_its_end_is_used_and_other_characters_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SOME_KEY", f" {KEY.value}\n")
    assert key_in("SOME_KEY", "the key") == KEY
    for value in ("two words", "sk-é", "a\nb", "sk-\x7f"):
        monkeypatch.setenv("SOME_KEY", value)
        with pytest.raises(SettingsError, match=r"the key in \$SOME_KEY must be printable ASCII") as refused:
            key_in("SOME_KEY", "the key")
        assert value not in str(refused.value)


@pytest.mark.parametrize(
    "url", ["", "api.openai.com/v1", "file:///etc/passwd", "https://", "http://a b/v1", "https:///v1"]
)
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(SettingsError, match=r"writer\.url must be like https://host/v1"):
        WriterSettings(url=url)

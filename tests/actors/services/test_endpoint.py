"""Remote calls by the real client to a server that misbehaves: nothing is lost, paid twice or shown."""

from __future__ import annotations

import asyncio
import json
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from actors.services.budget import BudgetReached, BudgetTracker
from actors.services.endpoint import ContentRefused, Endpoint, EndpointError, Key, LocalBudget, RetriesExhausted, key_of
from conf.endpoints import BudgetSettings, WriterSettings
from tests.support.openai_server import Behaviour, serving

KEY = Key("sk-a-secret")
TROUBLES = ("429", "500", "garbage", "drop", "slow")


def ask(url: str, meter: BudgetTracker, cache: str = "", count: int = 40, **settings: Any) -> list[bytes | Exception]:
    """Pictures of `count` prompts, asked for at once; an exception where there is none."""
    own = WriterSettings(url=url, **{"timeout": 0.5, "max_backoff_s": 0.2, "price_image": 0.5, **settings})

    async def all_of_them() -> list[bytes | Exception]:
        endpoint = Endpoint(own, KEY, LocalBudget(meter), cache)
        text = "a red circle left of a blue square"
        return await asyncio.gather(*(endpoint.image(text, "s", i) for i in range(count)), return_exceptions=True)  # type: ignore[return-value]

    return asyncio.run(all_of_them())


def test_every_trouble_is_overcome_and_the_answers_are_those_of_a_calm_day(tmp_path: Path) -> None:
    calm, stormy, meter = (
        Behaviour(),
        Behaviour(dict.fromkeys(TROUBLES, 0.15)),
        BudgetTracker(),
    )
    with serving(calm) as url:
        expected = ask(url, BudgetTracker())
    with serving(stormy) as url:
        got = ask(url, meter, str(tmp_path))
        assert got == expected
        assert all(stormy.troubles[name] for name in TROUBLES), stormy.troubles
        assert min(stormy.waited) >= 1.0, "Retry-After asks for a second; the backoff alone waits 0.2 at most"
        assert stormy.busiest <= 8 + stormy.troubles["slow"], "calls given up stay under way there"
        before = sum(stormy.seen.values())
        assert ask(url, meter, str(tmp_path)) == expected
        assert sum(stormy.seen.values()) == before, "a rerun repeats no call"
    spent = meter.usage()
    assert (spent.images, spent.cost) == (40, 20.0)
    assert spent.calls >= before  # one given up by the client may never have reached the server
    assert spent.retries == spent.calls - 40


@pytest.mark.parametrize(
    ("share", "kind"),
    [({"500": 1.0}, RetriesExhausted), ({"drop": 1.0}, RetriesExhausted), ({"slow": 1.0}, RetriesExhausted)],
)
def test_retries_end(share: dict[str, float], kind: type) -> None:
    with serving(Behaviour(share)) as url:
        (failed,) = ask(url, BudgetTracker(), count=1, retries=0, timeout=0.2)
    assert isinstance(failed, kind) and KEY.value not in str(failed)


def test_a_refusal_is_kept_and_not_asked_for_again(tmp_path: Path) -> None:
    behaviour = Behaviour({"never": 1.0})
    own = WriterSettings()

    async def chat(url: str) -> str:
        endpoint = Endpoint(WriterSettings(url=url), KEY, LocalBudget(), str(tmp_path))
        return await endpoint.chat([{"role": "user", "content": "?"}])

    with serving(behaviour) as url:
        for _ in range(2):
            with pytest.raises(ContentRefused, match="against the policy"):
                asyncio.run(chat(url))
    assert sum(behaviour.seen.values()) == 1 and own.model == "gpt-5"


def test_a_budget_holds_over_restarts_and_says_what_was_spent(tmp_path: Path) -> None:
    account = str(tmp_path / "account.jsonl")
    with serving(Behaviour()) as url:
        got = ask(url, BudgetTracker(BudgetSettings(cost=10), account), concurrency=1)
        assert [isinstance(answer, bytes) for answer in got] == [True] * 20 + [False] * 20
        with Path(account).open("a") as file:
            file.write('{"calls": 7, "ret')  # what a kill leaves
        again = ask(url, BudgetTracker(BudgetSettings(cost=10), account), count=1)
        assert (
            isinstance(again[0], BudgetReached) and "budget.cost=10" in str(again[0]) and "20 images" in str(again[0])
        )
        assert isinstance(ask(url, BudgetTracker(BudgetSettings(calls=21), account), count=1)[0], bytes)


def test_calls_keep_the_pace() -> None:
    meter = BudgetTracker()
    assert [round(meter.acquire("writer", 120), 1) for _ in range(3)] == [0.0, 0.5, 1.0]
    assert meter.acquire("seedream", 120) == 0.0


def _answering(status: int, error: dict[str, str]) -> Callable[[Any], None]:
    def respond(handler: Any) -> None:
        handler.rfile.read(int(handler.headers["Content-Length"]))
        handler._send(status, json.dumps({"error": error}).encode())

    return respond


@pytest.mark.parametrize(
    ("status", "error", "mend"),
    [
        (401, {"message": f"Incorrect API key provided: {KEY.value}"}, r"the key in \$OPENAI_API_KEY"),
        (429, {"message": "pay", "code": "insufficient_quota"}, "the account it belongs to"),
        (400, {"message": "Unknown parameter: 'moderation'", "code": "unknown_parameter"}, "Unknown parameter.*takes"),
        (422, {"message": "size must be at least 512x512"}, "size must be.*whether it takes such questions"),
    ],
)
def test_what_only_people_can_mend_ends_the_job_and_does_not_show_the_key(
    status: int, error: dict[str, str], mend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.support.openai_server._Handler.do_POST", _answering(status, error))
    with serving(Behaviour()) as url:
        (failed,) = ask(url, BudgetTracker(), count=1)
    assert isinstance(failed, EndpointError) and "check writer.url" in str(failed) and re.search(mend, str(failed))
    assert KEY.value not in repr(failed) and failed.__cause__ is None and failed.__suppress_context__


@pytest.mark.parametrize(
    "error",
    [
        {"code": "content_policy_violation"}, {"code": "OutputImageSensitiveContentDetected"},
        {"code": "content_filter", "message": "filtered"}, {"message": "rejected by our safety system"},
    ],
)  # fmt: skip
def test_a_question_against_the_policy_is_refused(error: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.support.openai_server._Handler.do_POST", _answering(400, error))
    with serving(Behaviour()) as url:
        assert isinstance(ask(url, BudgetTracker(), count=1)[0], ContentRefused)


def test_a_key_does_not_show_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    assert KEY.value not in f"{KEY} {KEY!r}" and pickle.loads(pickle.dumps(KEY)) == KEY
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    with pytest.raises(ValueError, match=r"\$NO_SUCH_KEY, which is not set"):
        key_of(WriterSettings(key_variable="NO_SUCH_KEY"))

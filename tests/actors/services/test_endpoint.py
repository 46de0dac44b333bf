"""The real client against a server that misbehaves: no response is lost, charged twice, and no key is shown."""

from __future__ import annotations

import asyncio
import json
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from actors.services.budget import BudgetReached, BudgetTracker, LocalBudget, Usage
from actors.services.endpoint import (
    MAX_REJECTIONS,
    ContentRefused,
    Endpoint,
    EndpointError,
    QuestionRejected,
    RetriesExhausted,
)
from actors.services.keys import Key, key_in, key_of
from conf import UserError
from conf.endpoints import BudgetSettings, WriterSettings
from tests.support import openai_server
from tests.support.openai_server import Behaviour, serving

KEY = Key("sk-a-secret")
FAILURES = ("429", "500", "garbage", "drop", "slow")


def request_images(
    url: str, tracker: BudgetTracker, cache: str = "", count: int = 40, **overrides: Any
) -> list[bytes | BaseException]:
    """Images of `count` seeds, requested concurrently; an exception in place of an image that could not be had."""
    settings = WriterSettings(url=url, **{"timeout": 0.5, "max_backoff_s": 0.2, "price_image": 0.5, **overrides})

    async def request_all() -> list[bytes | BaseException]:
        endpoint = Endpoint(settings, KEY, LocalBudget(tracker), cache)
        prompt = "a red circle left of a blue square"
        return await asyncio.gather(*(endpoint.image(prompt, "s", i) for i in range(count)), return_exceptions=True)

    return asyncio.run(request_all())


def test_retries_overcome_every_failure_and_return_what_a_reliable_server_returns(tmp_path: Path) -> None:
    reliable, unreliable = Behaviour(), Behaviour(dict.fromkeys(FAILURES, 0.15))
    tracker = BudgetTracker()
    with serving(reliable) as url:
        expected = request_images(url, BudgetTracker())
    with serving(unreliable) as url:
        assert request_images(url, tracker, str(tmp_path)) == expected
        assert all(unreliable.failures[name] for name in FAILURES), unreliable.failures
        assert min(unreliable.retry_waits) >= 1.0, "Retry-After asks for 1 s; the backoff alone is at most 0.2 s"
        assert unreliable.max_in_flight <= 8 + unreliable.failures["slow"], "calls that timed out still run there"
        calls = sum(unreliable.seen.values())
        assert request_images(url, tracker, str(tmp_path)) == expected
        assert sum(unreliable.seen.values()) == calls, "a second run repeats no call"
    usage = tracker.usage()
    assert (usage.images, usage.cost) == (40, 20.0)
    assert usage.calls >= calls  # a call that timed out in the client may never have reached the server
    assert usage.retries == usage.calls - 40


@pytest.mark.parametrize("failure", ["500", "drop", "slow"])
def test_a_failure_that_lasts_exhausts_the_retries(failure: str) -> None:
    with serving(Behaviour({failure: 1.0})) as url:
        (failed,) = request_images(url, BudgetTracker(), count=1, retries=0, timeout=0.2)
    assert isinstance(failed, RetriesExhausted)
    assert KEY.value not in str(failed)


def test_a_refusal_is_cached_and_not_requested_again(tmp_path: Path) -> None:
    behaviour = Behaviour({"never": 1.0})

    async def chat(url: str) -> str:
        endpoint = Endpoint(WriterSettings(url=url), KEY, LocalBudget(), str(tmp_path))
        return await endpoint.chat([{"role": "user", "content": "?"}])

    with serving(behaviour) as url:
        for _ in range(2):
            with pytest.raises(ContentRefused, match="against the policy"):
                asyncio.run(chat(url))
    assert sum(behaviour.seen.values()) == 1


def test_a_budget_holds_across_restarts_and_the_error_names_the_usage(tmp_path: Path) -> None:
    file = tmp_path / "usage.jsonl"
    with serving(Behaviour()) as url:
        first = request_images(url, BudgetTracker(BudgetSettings(cost=10), str(file)), concurrency=1)
        assert [isinstance(image, bytes) for image in first] == [True] * 20 + [False] * 20
        with file.open("a") as stream:
            stream.write('{"calls": 7, "ret')  # a killed process leaves an incomplete line
        (refused,) = request_images(url, BudgetTracker(BudgetSettings(cost=10), str(file)), count=1)
        assert isinstance(refused, BudgetReached)
        assert "budget.cost=10" in str(refused)
        assert "20 images" in str(refused)
        (image,) = request_images(url, BudgetTracker(BudgetSettings(calls=21), str(file)), count=1)
        assert isinstance(image, bytes)


def test_usage_of_killed_processes_is_counted_and_damaged_lines_are_not(tmp_path: Path) -> None:
    file = tmp_path / "usage.jsonl"
    damaged = ['{"calls": 7, "ret', "[1]", '{"calls": "9"}', '{"cost": NaN}', '{"cost": -5}', '{"other": 1}', "{}"]
    file.write_text("\n".join(['{"calls": 2, "cost": 0.5}', *damaged, '{"calls": 3, "re']))
    tracker = BudgetTracker(usage_file=str(file))
    assert (tracker.usage().calls, tracker.usage().cost) == (2, 0.5)
    tracker.record(Usage(calls=1, cost=0.25))
    assert BudgetTracker(usage_file=str(file)).usage() == Usage(calls=3, cost=0.75)


def test_calls_keep_to_the_rate_limit_of_their_caller() -> None:
    tracker = BudgetTracker()
    assert [round(tracker.acquire("writer", 120), 1) for _ in range(3)] == [0.0, 0.5, 1.0]
    assert tracker.acquire("seedream", 120) == 0.0


def _answering(status: int, error: dict[str, str]) -> Callable[[Any], None]:
    """A request handler of the server that answers every call with this error."""

    def respond(handler: Any) -> None:
        handler.rfile.read(int(handler.headers["Content-Length"]))
        handler._send(status, json.dumps({"error": error}).encode())

    return respond


@pytest.mark.parametrize(
    ("status", "error", "fix"),
    [
        (401, {"message": f"Incorrect API key provided: {KEY.value}"}, r"the key in \$OPENAI_API_KEY"),
        (429, {"message": "pay", "code": "insufficient_quota"}, "the account it belongs to"),
        (400, {"message": "Unknown parameter: 'moderation'", "code": "unknown_parameter"}, "Unknown parameter.*form"),
        (422, {"message": "size must be at least 512x512"}, "size must be.*accepts this form of question"),
    ],
)
def test_an_error_that_only_the_user_can_fix_is_not_retried_and_does_not_show_the_key(
    status: int, error: dict[str, str], fix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.support.openai_server._Handler.do_POST", _answering(status, error))
    tracker = BudgetTracker()
    with serving(Behaviour()) as url:
        results = request_images(url, tracker, count=MAX_REJECTIONS)
    assert len({str(result) for result in results}) <= 2, "the same error for every question"
    failed = next(result for result in results if isinstance(result, EndpointError))
    assert "check writer.url" in str(failed)
    assert re.search(fix, str(failed))
    assert tracker.usage().retries == 0
    assert KEY.value not in repr(failed)
    assert failed.__cause__ is None
    assert failed.__suppress_context__


@pytest.mark.parametrize(
    "error",
    [
        {"code": "content_policy_violation"},
        {"code": "OutputImageSensitiveContentDetected"},
        {"code": "content_filter", "message": "filtered"},
        {"message": "rejected by our safety system"},
        {"code": "cyber_policy_violation"},
        {"code": "InputTextRiskDetection"},
        {"code": "OutputImageRiskDetection"},
    ],
)
def test_content_against_the_services_policy_is_a_refusal(
    error: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.support.openai_server._Handler.do_POST", _answering(400, error))
    with serving(Behaviour()) as url:
        assert isinstance(request_images(url, BudgetTracker(), count=1)[0], ContentRefused)


def test_a_question_that_is_rejected_among_others_ends_no_job(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = openai_server._Handler.do_POST
    rejected = {7, 11}

    def respond(handler: Any) -> None:
        body = handler.rfile.peek()
        seed = int(re.search(rb'"seed": ?(\d+)', body)[1])  # type: ignore[index]
        if seed in rejected:
            _answering(400, {"message": "OddQuestion"})(handler)
        else:
            answer(handler)

    monkeypatch.setattr("tests.support.openai_server._Handler.do_POST", respond)
    with serving(Behaviour()) as url:
        results = request_images(url, BudgetTracker(), concurrency=1)
        assert {i for i, result in enumerate(results) if isinstance(result, QuestionRejected)} == rejected
        assert sum(isinstance(result, bytes) for result in results) == 38
        rejected.update(range(20, 40))
        assert any(isinstance(result, EndpointError) for result in request_images(url, BudgetTracker(), concurrency=1))


def test_options_are_sent_and_select_the_cached_answer(tmp_path: Path) -> None:
    behaviour = Behaviour(reply=lambda body, _: f"answer {len(behaviour.bodies)}")

    async def ask(attempt: int = 0, **options: Any) -> str:
        settings = WriterSettings(url=url, **options)
        return await Endpoint(settings, KEY, LocalBudget(), str(tmp_path)).chat(
            [{"role": "user", "content": "?"}], attempt=attempt
        )

    with serving(behaviour) as url:
        first = asyncio.run(ask())
        assert asyncio.run(ask(service_tier="flex", timeout=900)) == first, "the tier does not change the answer"
        options = {"reasoning_effort": "low", "temperature": 0.0, "max_tokens": 9, "extra_body": {"top_p": 0.5}}
        others = [asyncio.run(ask(**{name: value})) for name, value in options.items()]
        assert len({first, *others, asyncio.run(ask(attempt=1))}) == 6
        sent = {name for body in behaviour.bodies for name in body} - {"model", "messages"}
    assert sent == {"reasoning_effort", "temperature", "max_completion_tokens", "top_p"}


def test_a_key_survives_pickling_and_is_not_shown() -> None:
    assert KEY.value not in f"{KEY} {KEY!r}"
    assert pickle.loads(pickle.dumps(KEY)) == KEY


def test_a_missing_key_is_a_user_error_that_names_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    with pytest.raises(UserError, match=r"the key of writer is read from \$NO_SUCH_KEY, which is not set"):
        key_of(WriterSettings(key_variable="NO_SUCH_KEY"))
    monkeypatch.setenv("NO_SUCH_KEY", KEY.value)
    assert key_in("NO_SUCH_KEY", "the token") == KEY

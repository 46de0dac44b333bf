"""A chat judge against a server that misbehaves: every trouble changes no answer, or is counted as what it is."""

from __future__ import annotations

import asyncio
import base64
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from actors.images import decode_image
from actors.services.budget import BudgetTracker, LocalBudget
from actors.services.endpoint import Endpoint, EndpointError
from actors.services.keys import Key
from conf.benchmark import DpgJudgeSettings, UniGenBenchJudgeSettings
from conf.endpoints import BudgetSettings
from pipelines.benchmark.dpg import Dpg
from pipelines.benchmark.items import Answer, BenchmarkItem, Judgement, Question, Unreadable
from pipelines.benchmark.judgement_files import read_judgements, write_judgements
from pipelines.benchmark.judges import ChatJudge, image_url, messages_of, shows_image_first
from pipelines.common.images import encode_png
from tests.support.openai_server import Behaviour, ContentRefusal, CutAnswer, serving

ITEMS = tuple(
    BenchmarkItem(
        f"item{i}", f"prompt {i}", (Question("1", f"Is it {i}?", "yes"), Question("2", "Is it red?", "yes")), 2
    )
    for i in range(8)
)
IMAGES = [(item, image) for item in ITEMS for image in range(item.images)]
PNG = [encode_png(np.full((16, 16, 3), 10 * i, dtype=np.uint8)) for i in range(len(IMAGES))]
"""One file an image, each of a grey of its own."""


def grey_of(body: dict[str, Any]) -> int:
    """The grey of the image in a question."""
    part = next(part for part in body["messages"][-1]["content"] if part["type"] == "image_url")
    return int(decode_image(base64.b64decode(part["image_url"]["url"].partition(",")[2]))[0, 0, 0])


def true_reply(body: dict[str, Any], _: bool) -> str:
    """Yes if the number of the grey is even, and always no."""
    return f"{'yes' if grey_of(body) // 10 % 2 == 0 else 'no'}, it looks so\nNo, it is grey"


def judged(
    behaviour: Behaviour, cache: str = "", tracker: BudgetTracker | None = None, files: Sequence[bytes | None] = PNG,
    attempts: int = 3, retries: int = 5,
) -> list[Judgement]:  # fmt: skip
    """The judgements of IMAGES by a server that behaves so."""
    dpg = Dpg()

    async def run(url: str) -> list[Judgement]:
        settings = DpgJudgeSettings(url=url, timeout=0.5, max_backoff_s=0.05, retries=retries)
        endpoint = Endpoint(settings, Key("sk-secret"), LocalBudget(tracker), cache)
        return await ChatJudge(dpg, dpg.wording(Path()), endpoint, attempts).judge_all(IMAGES, files)

    with serving(behaviour) as url:
        return asyncio.run(run(url))


def failing_first(failures: Sequence[Exception | str], times: int = 1) -> Callable[[dict[str, Any], bool], str]:
    """A reply that fails the first `times` times for every image, by turns, and then is true."""
    asked = Counter[int]()

    def reply(body: dict[str, Any], untrue: bool) -> str:
        grey = grey_of(body)
        asked[grey] += 1
        if asked[grey] > times:
            return true_reply(body, untrue)
        failure = failures[grey // 10 % len(failures)]
        if isinstance(failure, Exception):
            raise failure
        return failure

    return reply


TROUBLES = ("I cannot tell.", "1. yes\n2. no", ContentRefusal(), CutAnswer("yes, it"))


def values_of(judgements: Sequence[Judgement]) -> list[tuple[str, ...]]:
    return [each.values if isinstance(each, Answer) else () for each in judgements]


def test_troubles_of_the_service_and_of_its_replies_change_no_answer(tmp_path: Path) -> None:
    expected = judged(Behaviour(reply=true_reply))
    assert values_of(expected)[:3] == [("yes", "no"), ("no", "no"), ("yes", "no")]
    behaviour = Behaviour(dict.fromkeys(("429", "500", "drop", "garbage"), 0.2), failing_first(TROUBLES))
    found = judged(behaviour, str(tmp_path))
    assert values_of(found) == values_of(expected)
    assert all(behaviour.failures[name] for name in ("429", "500", "drop")), behaviour.failures
    assert {each.attempts for each in found} == {2}, "every first reply was unreadable"


def test_an_answer_that_stays_unreadable_is_missing_with_its_reason() -> None:
    found = judged(Behaviour(reply=failing_first(TROUBLES, times=99)), attempts=2)
    reasons = [each.why for each in found if isinstance(each, Unreadable)]
    assert reasons == ["malformed", "malformed", "refused", "cut"] * 4
    assert {each.attempts for each in found} == {2}
    assert found[0].raw == "I cannot tell." and "2 questions" in found[0].detail  # type: ignore[union-attr]


def test_what_was_answered_is_asked_again_by_no_restart(tmp_path: Path) -> None:
    behaviour = Behaviour(reply=failing_first(("I cannot tell.",)))
    first = judged(behaviour, str(tmp_path))
    calls = len(behaviour.bodies)
    again = judged(behaviour, str(tmp_path))
    assert again == first and len(behaviour.bodies) == calls == 2 * len(IMAGES)


def test_a_missing_or_damaged_image_is_not_paid_for() -> None:
    behaviour = Behaviour(reply=true_reply)
    found = judged(behaviour, files=[None, PNG[1][:40], *PNG[2:]])
    assert [each.why for each in found if isinstance(each, Unreadable)] == ["no image", "no image"]
    assert len(behaviour.bodies) == len(IMAGES) - 2


def test_a_service_that_is_down_or_a_budget_that_is_spent_leaves_judgements_for_another_start() -> None:
    down = Behaviour({"500": 1.0}, true_reply)
    assert {each.why for each in judged(down, retries=0) if isinstance(each, Unreadable)} == {"call failed"}
    found = judged(Behaviour(reply=true_reply), tracker=BudgetTracker(BudgetSettings(calls=3)))
    assert any(isinstance(each, Unreadable) and "budget.calls=3" in each.detail for each in found)


def test_a_wrong_key_ends_the_work() -> None:
    dpg = Dpg()

    async def run() -> None:
        settings = DpgJudgeSettings(url="http://127.0.0.1:9/v1", retries=0, timeout=0.5)
        endpoint = Endpoint(settings, Key("sk"), LocalBudget(), "")

        async def chat(*_: object, **__: object) -> str:
            raise EndpointError("status 401")

        endpoint.chat = chat  # type: ignore[method-assign]
        await ChatJudge(dpg, dpg.wording(Path()), endpoint, 1).judge_all(IMAGES[:1], PNG[:1])

    with pytest.raises(EndpointError, match="401"):
        asyncio.run(run())


def test_the_call_has_the_file_s_own_bytes_and_the_order_that_the_judge_wants() -> None:
    dpg = Dpg()
    call = dpg.ask(ITEMS[0], 0, 0, dpg.wording(Path()))
    (turn,) = messages_of(call, image_url(PNG[0], jpeg=False))
    assert [part["type"] for part in turn["content"]] == ["text", "image_url"]
    assert base64.b64decode(turn["content"][1]["image_url"]["url"].removeprefix("data:image/png;base64,")) == PNG[0]
    system, turn = messages_of(
        replace(call, system="You look closely."), image_url(PNG[0], jpeg=True), image_first=True
    )
    assert system == {"role": "system", "content": "You look closely."}
    assert [part["type"] for part in turn["content"]] == ["image_url", "text"]
    assert turn["content"][0]["image_url"]["url"].startswith("data:image/jpeg;base64,")
    assert shows_image_first(UniGenBenchJudgeSettings(image_first=True)) and not shows_image_first(DpgJudgeSettings())


def test_judgements_survive_their_file(tmp_path: Path) -> None:
    rows: list[Judgement] = [
        Answer("a", 0, ("yes", "no"), ("seen",), (0.5, 0.25), True, "yes\nno", 2),
        Unreadable("a", 1, "cut", "at 8192", "yes", 3),
        Answer("b", 0, ()),
    ]
    file = str(tmp_path / "rows.parquet")
    write_judgements(file, rows)
    assert read_judgements(file) == rows
    Path(file).write_bytes(b"PAR1")
    assert read_judgements(file) is None and read_judgements(str(tmp_path / "none")) is None

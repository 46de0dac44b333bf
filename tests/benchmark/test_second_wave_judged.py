"""SpatialGenEval and GenEval 2 through the commands: repeated answers, and probabilities of the first token."""

from __future__ import annotations

import asyncio
import json
import math
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from actors.images import decode_image
from actors.services.budget import LocalBudget
from actors.services.endpoint import Endpoint, EndpointError
from actors.services.keys import Key
from conf import Settings, SettingsError, load
from conf.benchmark import GenEval2JudgeSettings
from pipelines.benchmark.geneval2 import GenEval2
from pipelines.benchmark.items import Answer, BenchmarkItem, Judgement, Question, Unreadable
from pipelines.benchmark.judging import name_judge
from pipelines.benchmark.layout import export_images, import_images
from pipelines.benchmark.logprob_judge import LogprobJudge
from pipelines.benchmark.report import write_report
from pipelines.benchmark.work import Work, files_of
from pipelines.common.images import encode_png
from pipelines.common.paths import run_paths
from pipelines.scenes.answering import answer_chat
from pipelines.scenes.checker import check
from pipelines.scenes.grammar import parse
from tests.support.benchmark_run import judge_here, judgements_of, rendered_run
from tests.support.openai_server import Behaviour, ContentRefusal, serving

SIDES = ("base", "policy")
NAMES = "benchmark.names=[spatialgeneval,geneval2]"


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> tuple[Settings, list[Work]]:
    """A run whose images the exact checker has judged."""
    settings, work = rendered_run(tmp_path_factory.mktemp("second") / "run", [NAMES])
    assert not judge_here(settings, work, SIDES, run_paths(settings)).missing
    return settings, work


def test_positions_of_both_are_the_relations_that_the_checker_finds(judged: tuple[Settings, list[Work]]) -> None:
    settings, work = judged
    text = write_report(settings, work, SIDES, run_paths(settings))
    assert "SpatialGenEval (spatialgeneval), judge: exact checker" in text and "GenEval 2 (geneval2)" in text
    content = json.loads(run_paths(settings).benchmark_results.read_text())
    for each, found in zip(work, content["benchmarks"], strict=True):
        row = next(row for row in found["cells"] if row["name"] in ("Position", "position"))
        for side in SIDES:
            right = total = 0
            for item, _, name in files_of(each):
                image = decode_image((run_paths(settings).benchmark_images(each.name, side) / name).read_bytes())
                verdict = check(image, parse(item.prompt).relations)
                right, total = right + verdict.right, total + len(verdict.outcomes)
            cell = row["values"][side]["fixed"]
            assert (cell["numerator"], cell["denominator"], cell["missing"]) == (right, total, 0)
        assert row["values"]["policy"]["fixed"]["value"] > row["values"]["base"]["fixed"]["value"]
    letters = {row["name"] for row in content["benchmarks"][0]["cells"] if row["table"] == "baseline"}
    assert letters == {f"always {letter}" for letter in "ABCDE"}


def test_each_image_is_asked_five_times_and_a_restart_asks_nothing(
    judged: tuple[Settings, list[Work]], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, (spatial, _) = judged
    monkeypatch.setenv("BENCH_KEY", "sk-secret")
    asked = Counter[str]()

    def reply(body: dict[str, Any], _: bool) -> str:
        text = answer_chat(body)
        key = json.dumps(body["messages"])
        asked[key] += 1
        return "I see two objects." if asked[key] == 2 else text  # one of five has to be asked for again

    behaviour = Behaviour(dict.fromkeys(("429", "500", "drop"), 0.05), reply)
    with serving(behaviour) as url:
        fast: dict[str, Any] = {"url": url, "key_variable": "BENCH_KEY", "timeout": 5.0, "max_backoff_s": 0.05}
        judge = replace(settings.spatialgeneval_judge, **fast)
        served = replace(settings, benchmark=replace(settings.benchmark, judge="endpoint"), spatialgeneval_judge=judge)
        assert not judge_here(served, [spatial], ("policy",), run_paths(settings)).missing
        calls = len(behaviour.bodies)
        found = judgements_of(served, spatial, "policy")
        assert judgements_of(settings, spatial, "policy") != found, "attempts differ"
        expected = [each.values for each in judgements_of(settings, spatial, "policy") if isinstance(each, Answer)]
        assert [each.values for each in found if isinstance(each, Answer)] == expected
        assert {each.attempts for each in found} == {6} and all(len(each) == 5 for each in expected[0])
        assert all(body["temperature"] == 1.0 for body in behaviour.bodies)
        for part in run_paths(settings).benchmark.rglob("*.parts/*.parquet"):
            part.unlink()
        judge_here(served, [spatial], ("policy",), run_paths(settings))
        assert len(behaviour.bodies) == calls
    other = replace(served, spatialgeneval_judge=replace(judge, answers=1))
    assert name_judge(other, spatial).folder != name_judge(served, spatial).folder
    with pytest.raises(SettingsError, match="with one seed all answers are the same"):
        replace(judge, answer_seed=1)


ITEM = BenchmarkItem(
    "00000",
    "two dogs left of a cat",
    (
        Question("0", "How many dogs are in the image?", "two", "count"),
        Question("1", "Are the dogs left of the cat?", "Yes", "position"),
    ),
    1,
)
PNG = encode_png(np.zeros((16, 16, 3), np.uint8))


def asked(behaviour: Behaviour, **settings: Any) -> Judgement:
    async def run(url: str) -> Judgement:
        cfg = GenEval2JudgeSettings(url=url, timeout=2.0, max_backoff_s=0.05, **settings)
        return await LogprobJudge(Endpoint(cfg, Key("sk-secret"), LocalBudget(), "")).judge(ITEM, 0, PNG)

    with serving(behaviour) as url:
        return asyncio.run(run(url))


def test_the_probability_of_the_right_first_token_is_asked_for_and_counts() -> None:
    def reply(body: dict[str, Any], _: bool) -> str:
        image, text = body["messages"][0]["content"]
        assert image["type"] == "image_url" and text["text"].endswith("? Answer in one word.")
        assert (body["logprobs"], body["top_logprobs"], body["max_completion_tokens"]) == (True, 20, 1)
        if "How many" in text["text"]:
            return json.dumps({"two": math.log(0.5), "2": math.log(0.25), "three": math.log(0.2)})
        return json.dumps({"No": math.log(0.9), "Yes": math.log(0.1)})

    found = asked(Behaviour({"500": 0.5}, reply))
    assert isinstance(found, Answer) and found.values == ("two", "No")
    assert found.probabilities == pytest.approx((0.75, 0.1))
    position = GenEval2().summarize([ITEM], [found], "fixed").find("position")
    assert position and position.value == pytest.approx(10.0)


def test_a_refused_question_is_missing_and_a_service_without_log_probabilities_ends_the_work() -> None:
    def reply(body: dict[str, Any], _: bool) -> str:
        if "How many" in body["messages"][0]["content"][1]["text"]:
            raise ContentRefusal
        return json.dumps({"Yes": 0.0})

    found = asked(Behaviour(reply=reply))
    assert isinstance(found, Answer) and math.isnan(found.probabilities[0]) and found.probabilities[1] == 1.0
    down = asked(Behaviour({"500": 1.0, "never": 0.0}, reply), retries=0)
    assert isinstance(down, Unreadable) and down.why == "call failed"
    with pytest.raises(EndpointError, match=r"gives no log-probabilities .* such as vLLM"):
        asked(Behaviour(reply=lambda *_: "Yes"))


def test_both_are_exported_in_the_official_layout_and_read_back(
    judged: tuple[Settings, list[Work]], tmp_path: Path
) -> None:
    settings, work = judged
    for each in work:
        source, out = run_paths(settings).benchmark_images(each.name, "base"), tmp_path / each.name
        assert export_images(each.name, each.items, source, out, "base").images == each.images
        assert import_images(each.name, each.items, out, tmp_path / "back" / each.name).images == each.images
        for _, _, name in files_of(each):
            assert (tmp_path / "back" / each.name / name).read_bytes() == (source / name).read_bytes()
    named = json.loads((tmp_path / "geneval2" / "images.json").read_text())
    assert all(Path(named[item.prompt]).is_file() for item in work[1].items)


def test_the_options_are_shown_as_published_where_the_settings_say_so(tmp_path: Path) -> None:
    settings, (work, *_) = rendered_run(tmp_path / "run", [NAMES, "spatialgeneval_judge.shuffle=false"])
    benchmark, item = work.benchmark, work.items[0]
    text = benchmark.ask(item, 0, 0, benchmark.wording(work.folder)).text
    assert all(", ".join(question.options) in text for question in item.questions)
    assert load("scenes", []).benchmark.names == ("dpg", "tiif", "unigenbench", "unigenbench_long", "geneval")
    assert name_judge(settings, work).identity["shuffle"] is False

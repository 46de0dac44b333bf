"""SpatialGenEval and GenEval 2: shuffled options, agreement of answers, constant answers, and probabilities."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest

from pipelines.benchmark.catalogue import find_benchmark, find_source
from pipelines.benchmark.geneval2 import GenEval2, accepted_tokens, ask_one, geometric_mean, probability
from pipelines.benchmark.items import Answer, BenchmarkItem, Misread, Question, Unreadable
from pipelines.benchmark.scores import Summary
from pipelines.benchmark.spatialgeneval import SpatialGenEval, combine, is_agreed, order_of

STEM = "Where is the dog?  Options: A: left, in front, B: right, C: above, D: below, E: None"
KINDS = ("Object", "Attribute", "Position")


def spatial_items(folder: Path, count: int = 30) -> tuple[BenchmarkItem, ...]:
    rows = [
        {
            "id": f"{number:06d}",
            "scene": "Forest",
            "prompt": "a dog",
            "question_type": KINDS,
            "questions": [STEM] * len(KINDS),
            "answers": ["C"] * len(KINDS),
        }
        for number in range(count)
    ]
    (folder / "SpatialGenEval_T2I_Prompts.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return SpatialGenEval().load(folder, "all")


def value(summary: Summary, name: str) -> float | None:
    cell = summary.find(name)
    assert cell
    return cell.value


def test_shuffled_options_are_asked_in_other_orders_and_read_back(tmp_path: Path) -> None:
    items, benchmark = spatial_items(tmp_path), SpatialGenEval()
    wording = benchmark.wording(tmp_path)
    shown = set[str]()
    for item in items:
        lines = re.findall(r"Options: (.*)", benchmark.ask(item, 0, 1, wording).text)
        right = [re.search(r"([A-E]): above", line)[1] for line in lines]  # type: ignore[index]
        assert all(line.endswith("E: None") and "left, in front" in line for line in lines)
        parsed = benchmark.parse(item, "\n".join(f"{letter}: above, it seems" for letter in right))
        assert not isinstance(parsed, Misread) and parsed.values == ("C", "C", "C")
        shown |= set(right)
    assert shown == set("ABCD")


def test_the_published_order_rewards_a_constant_answer_and_shuffling_does_not(tmp_path: Path) -> None:
    items = spatial_items(tmp_path, 400)
    published = SpatialGenEval(shuffle=False).summarize(items, [], "official")
    assert [value(published, f"always {letter}") for letter in "ABCDE"] == [0.0, 0.0, 1.0, 0.0, 0.0]
    shuffled = SpatialGenEval().summarize(items, [], "fixed")
    assert value(shuffled, "always C") == pytest.approx(0.25, abs=0.06) and value(shuffled, "always E") == 0.0


def test_an_option_counts_if_four_of_five_answers_give_it() -> None:
    assert is_agreed("CCCCB", "C") and not is_agreed("CCCBB", "C") and is_agreed("C", "C") and not is_agreed("CB", "C")


def test_types_are_rounded_before_they_are_averaged_and_missing_images_are_counted(tmp_path: Path) -> None:
    items, benchmark = spatial_items(tmp_path, 4), SpatialGenEval(shuffle=False)
    parsed = [benchmark.parse(items[0], reply) for reply in ("C\nC: x\n\nB", "C\nB\nB")]
    assert not any(isinstance(each, Misread) for each in parsed)
    values = combine(parsed)  # type: ignore[arg-type]
    assert values == ("CC", "CB", "BB")
    rows = [Answer(items[number].id, 0, values) for number in range(3)]
    rows[0] = Answer(items[0].id, 0, ("BB", "CC", "CC"))
    official = benchmark.summarize(items, [*rows, Unreadable(items[3].id, 0, "malformed")], "official")
    assert (value(official, "Object"), value(official, "Position")) == (0.667, 0.333)
    assert value(official, "overall") == pytest.approx((0.667 + 0.333 + 0.333) / 3)
    assert value(official, "basic") == 0.5 and value(official, "spatial") == 0.333
    cell = official.find("Object")
    assert cell and (cell.numerator, cell.denominator, cell.missing) == (2, 3, 1)
    assert isinstance(benchmark.parse(items[0], "C\nC"), Misread)


def test_the_order_of_options_depends_on_item_and_question_only() -> None:
    question = Question("0", "", "C", options=("A: a", "B: b", "C: c", "E: None"))
    assert order_of("x", question) == order_of("x", question) and order_of("x", question)[-1] == 3
    assert len({order_of(str(number), question) for number in range(40)}) == 6


def geneval2_items(folder: Path) -> tuple[BenchmarkItem, ...]:
    rows: list[dict[str, Any]] = [
        {
            "prompt": "two dogs left of a cat",
            "atom_count": 3,
            "vqa_list": [["How many dogs are in the image?", "two"], ["Are the dogs left of the cat?", "Yes"]],
            "skills": ["count", "position"],
        },
        {"prompt": "a cat", "atom_count": 4, "vqa_list": [["Is there a cat?", "Yes"]], "skills": ["object"]},
    ]
    (folder / "geneval2_data.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return GenEval2().load(folder, "all")


def test_soft_tifa_is_an_arithmetic_mean_by_skill_and_a_geometric_mean_by_prompt(tmp_path: Path) -> None:
    items = geneval2_items(tmp_path)
    rows = [
        Answer(items[0].id, 0, (), probabilities=(0.25, 1.0)),
        Answer(items[1].id, 0, (), probabilities=(0.5,)),
    ]
    summary = GenEval2().summarize(items, rows, "official")
    assert value(summary, "Soft-TIFA GM") == 100 * (0.5 + 0.5) / 2
    assert value(summary, "Soft-TIFA AM") == 100 * (0.625 + 0.5) / 2
    assert (value(summary, "count"), value(summary, "position"), value(summary, "object")) == (25.0, 100.0, 50.0)
    assert value(summary, "3") == 50.0
    assert [item.id for item in GenEval2().load(tmp_path, "spatial")] == ["00000"]


def test_a_question_without_a_probability_is_missing_with_its_prompt(tmp_path: Path) -> None:
    items = geneval2_items(tmp_path)
    rows = [Answer(items[0].id, 0, (), probabilities=(0.25, math.nan)), Unreadable(items[1].id, 0, "call failed")]
    summary = GenEval2().summarize(items, rows, "fixed")
    cells = {cell.name: (cell.value, cell.missing) for cell in summary.cells}
    assert cells["count"] == (25.0, 0) and cells["position"] == (None, 1)
    assert cells["Soft-TIFA GM"] == (None, 2) and cells["object"] == (None, 1)


def test_a_probability_is_the_sum_over_the_spellings_of_the_answer() -> None:
    count = Question("0", "How many dogs are in the image?", "two")
    assert accepted_tokens(count) == {"two", "Two", "2", " two", " Two", " 2"}
    found = probability(count, {"two": math.log(0.5), " 2": math.log(0.25), "three": math.log(0.2)})
    assert found == pytest.approx(0.75)
    other = Question("1", "Is the dog left of the cat?", "Yes")
    assert probability(other, {"No": 0.0}) == 0.0 and probability(other, {"yes": math.log(0.9)}) == pytest.approx(0.9)
    assert ask_one(other).text == "Is the dog left of the cat? Answer in one word."
    assert ask_one(other).options["max_tokens"] == 1 and ask_one(other).options["top_logprobs"] == 20


def test_the_geometric_mean_of_a_zero_is_zero() -> None:
    assert geometric_mean([0.0, 1.0]) == 0.0 and geometric_mean([0.5, 0.5, 0.5]) == pytest.approx(0.5)


def test_both_are_in_the_catalogue_with_a_warning_about_their_licence() -> None:
    for name, word in (("spatialgeneval", "no licence"), ("geneval2", "forbids commercial use")):
        assert find_benchmark(name).name == name and word in find_source(name).warning

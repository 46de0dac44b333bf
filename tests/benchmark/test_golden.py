"""Official scores equal those that the authors' unmodified scripts printed for the same answers."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import pytest

from pipelines.benchmark.dpg import Dpg
from pipelines.benchmark.geneval import GenEval
from pipelines.benchmark.items import Answer, BenchmarkItem, Misread, Question
from pipelines.benchmark.judgements import Judgements
from pipelines.benchmark.scores import Summary
from pipelines.benchmark.tiif import Tiif
from pipelines.benchmark.tiif_scores import cells as tiif_cells
from pipelines.benchmark.unigen import UniGenBench
from pipelines.benchmark.unigen_answers import parse_scores
from pipelines.benchmark.yes_no import parse_lines
from tests.support.benchmark_files import golden, needs_files, write_csv

pytestmark = needs_files


def values_of(summary: Summary, table: str) -> dict[str, float | None]:
    return {cell.name: cell.value for cell in summary.cells if cell.table == table}


def test_dpg_gives_the_scores_of_the_official_script(tmp_path: Path) -> None:
    case = golden("dpg_normal")
    write_csv(tmp_path / "dpg_bench.csv", case["input"]["columns"], case["input"]["rows"])
    items = [item for item in Dpg().load(tmp_path, "all") if item.id != "item"]
    answers = [
        Answer(item.id, number, tuple(crop[question.id] for question in item.questions))
        for item in items
        for number, crop in enumerate(case["input"]["answers"][item.id])
    ]
    summary, expected = Dpg().summarize(items, answers, "official"), case["expected"]
    assert summary.find("overall", "overall").value == pytest.approx(expected["overall"], abs=1e-9)  # type: ignore[union-attr]
    assert values_of(summary, "L1") == pytest.approx(expected["L1"], abs=1e-9)
    assert values_of(summary, "L2") == pytest.approx(expected["L2"], abs=1e-9)
    assert summary.lost == {}


def test_tiif_gives_the_scores_of_the_official_scripts() -> None:
    case = golden("tiif_normal")
    for model in ("alpha", "beta"):
        items: list[BenchmarkItem] = []
        answers: list[Answer] = []
        for path, content in case["input"]["files"].items():
            name, kind, length, index = path.removesuffix(".json").split("/")
            if name == model:
                questions = tuple(Question(str(i), "", right) for i, right in enumerate(content["gt_answers"]))
                items.append(BenchmarkItem(f"{kind}-{length}-{index}", "", questions, 1, kind, length))
                answers.append(Answer(items[-1].id, 0, tuple(content["model_pred"])))
        summary = Tiif().summarize(items, answers, "official")
        expected = case["expected"]
        accuracy = {
            name: value
            for name, value in expected["accuracy"][model].items()
            if value is not None and "|" in name and not name.startswith("Mean_Accuracy")
        }
        assert values_of(summary, "type") == pytest.approx(accuracy, abs=1e-9)
        groups = {
            f"{name}|{length}": values[model][length]
            for name, values in expected["groups"].items()
            for length in ("short", "long")
        }
        assert values_of(summary, "group") == pytest.approx(
            {k: v for k, v in groups.items() if v is not None}, abs=1e-9
        )
        for cell in summary.cells:
            if cell.table == "type":
                assert (cell.numerator, cell.denominator) == (
                    expected["correct"][model][cell.name],
                    expected["questions"][model][cell.name],
                )


@pytest.mark.parametrize("case", golden("tiif_parse")["cases"] if needs_files.args[0] is False else [])
def test_tiif_reads_a_reply_as_the_official_parser(case: dict[str, Any]) -> None:
    parsed = parse_lines(case["text"], case["questions"])
    if isinstance(case["expected"], list):
        assert not isinstance(parsed, Misread) and list(parsed.values) == case["expected"], case["case"]
    else:
        assert isinstance(parsed, Misread), case["case"]


def test_unigenbench_gives_the_scores_of_the_official_function() -> None:
    case = golden("unigenbench_normal")
    items: dict[str, BenchmarkItem] = {}
    answers: list[Answer] = []
    for row in case["input"]["rows"]:
        points = ast.literal_eval(row["testpoint"])
        questions = tuple(Question(str(i), "", "1", point) for i, point in enumerate(points))
        items[row["index"]] = BenchmarkItem(row["index"], row["prompt"], questions, 4)
        scores = json.loads(row["result_json"])["score"]
        number = int(row["img_path"].rsplit("_", 1)[1].removesuffix(".png"))
        answers.append(Answer(row["index"], number, tuple(map(repr, scores))))
    summary = UniGenBench().summarize([*items.values()], answers, "official")
    for table, key in (("primary", "primary_dimensions"), ("sub", "sub_dimensions")):
        found = {
            cell.name: {"correct": cell.numerator, "total": cell.denominator, "accuracy": cell.value}
            for cell in summary.cells
            if cell.table == table
        }
        assert found == {name.strip(): value for name, value in case["expected"][key].items()}
    overall = summary.find("overall", "overall")
    assert overall and overall.value == pytest.approx(case["overall_of_the_leaderboard"]["value"], abs=1e-9)


@pytest.mark.parametrize("case", golden("unigenbench_parse")["cases"] if needs_files.args[0] is False else [])
def test_unigenbench_reads_a_reply_as_the_official_parser(case: dict[str, Any]) -> None:
    parsed, expected = parse_scores(case["text"] or "", case["checkpoints"]), case["expected"]
    if expected is None or "raises" in expected:
        assert isinstance(parsed, Misread), case["case"]
        assert parsed.official_crash == ("" if expected is None else expected["raises"]), case["case"]
    elif isinstance(expected["score"], str):  # a dict: parsed, but not read back
        assert not isinstance(parsed, Misread) and parsed.officially_lost
    else:
        assert not isinstance(parsed, Misread), case["case"]
        assert parsed.values == tuple(map(repr, expected["score"])), case["case"]


def test_geneval_gives_the_scores_of_the_official_script() -> None:
    case = golden("geneval_normal")
    items: dict[str, BenchmarkItem] = {}
    answers: list[Answer] = []
    for row in case["input"]["rows"]:
        name, _, file = row["filename"].split("/")
        items[name] = BenchmarkItem(name, row["prompt"], (Question("0", "", "yes", row["tag"]),), 4, row["tag"])
        answers.append(Answer(name, int(file.removesuffix(".png")), ("yes" if row["correct"] else "no",)))
    summary, expected = GenEval().summarize([*items.values()], answers, "official"), case["expected"]
    tasks = {
        cell.name: {"percent": round(100 * (cell.value or 0), 2), "correct": cell.numerator, "images": cell.denominator}
        for cell in summary.cells
        if cell.table == "tag"
    }
    assert tasks == expected["tasks"]
    assert round(summary.find("overall").value, 5) == expected["overall"]  # type: ignore[union-attr, arg-type]
    assert round(100 * summary.find("images").value, 2) == expected["images_percent"]  # type: ignore[union-attr, operator]
    assert round(100 * summary.find("prompts").value, 2) == expected["prompts_percent"]  # type: ignore[union-attr, operator]


def test_an_image_of_two_answers_counts_by_the_last() -> None:
    item = BenchmarkItem("x", "", (Question("0", "", "yes"),), 1, "style", "short")
    known = Judgements.of([item], [Answer("x", 0, ("no",)), Answer("x", 0, ("yes",)), Answer("y", 0, ("no",))])
    assert {cell.value for cell in tiif_cells(known, "official") if cell.table == "type"} == {1.0}

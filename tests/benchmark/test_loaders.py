"""Loaders of the published files: counts, checksums, the patched row, and messages that name file, row and fix."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from conf import UserError
from pipelines.benchmark.dpg import COLUMNS, Dpg
from pipelines.benchmark.geneval import GenEval, clauses_of
from pipelines.benchmark.tiif import SHA256, Tiif
from pipelines.benchmark.unigen import UniGenBench
from pipelines.benchmark.unigen_scores import LAYOUT_2D, LAYOUT_3D
from tests.support.benchmark_files import data, needs_files, write_csv

SKIPPED = ("skipped", "", "", "1", "0", "", "", "", "")


@needs_files
@pytest.mark.parametrize(
    ("length", "layout", "two", "three", "testpoints"), [("short", 134, 68, 66, 1813), ("long", 311, 177, 138, 3920)]
)
def test_unigenbench_has_the_published_counts(length: str, layout: int, two: int, three: int, testpoints: int) -> None:
    benchmark = UniGenBench(length)  # type: ignore[arg-type]
    assert not benchmark.check(data("unigenbench"))
    items, spatial = (benchmark.load(data("unigenbench"), part) for part in ("all", "spatial"))  # type: ignore[arg-type]
    assert (len(items), len(spatial)) == (600, layout)
    assert sum(len(item.questions) for item in items) == testpoints
    rows = [{question.category for question in item.questions} for item in spatial]
    assert (sum(LAYOUT_2D in row for row in rows), sum(LAYOUT_3D in row for row in rows)) == (two, three)
    if length == "long":
        names = [question.category for question in items[509].questions]
        assert names[1:3] == ["Grammar - Negation", "Attribute - Color"] and len(names) == 5
        assert benchmark.summarize(items, [], "official").notes and not benchmark.summarize(items, [], "fixed").notes


@needs_files
def test_unigenbench_refuses_the_broken_row_in_any_other_file(tmp_path: Path) -> None:
    text = (data("unigenbench") / "test_prompts_en_long.csv").read_text("utf-8")
    (tmp_path / "test_prompts_en_long.csv").write_text(text.replace("smiling", "laughing"), "utf-8")
    benchmark = UniGenBench("long")
    with pytest.raises(UserError, match=r"test_prompts_en_long\.csv, row 509 must have .* JSON"):
        benchmark.load(tmp_path, "all")
    (problem,) = benchmark.check(tmp_path)
    assert not problem.fatal and "is not the published file" in problem.text


@needs_files
def test_geneval_has_the_published_counts() -> None:
    assert not GenEval().check(data("geneval"))
    items = GenEval().load(data("geneval"), "spatial")
    tags = [item.group for item in items]
    assert {tag: tags.count(tag) for tag in dict.fromkeys(tags)} == {
        "single_object": 80, "two_object": 99, "counting": 80, "colors": 94, "position": 100, "color_attr": 100,
    }  # fmt: skip
    relations = [clause.relation for item in items for clause in clauses_of(item, "include") if clause.relation]
    assert {word: relations.count(word) for word in ("below", "right of", "above", "left of")} == {
        "below": 28, "right of": 27, "above": 26, "left of": 19,
    }  # fmt: skip


@needs_files
def test_dpg_takes_the_published_text_of_a_prompt_where_it_is_there(tmp_path: Path) -> None:
    published = data("dpg") / "prompts.jsonl"
    (tmp_path / "prompts.jsonl").write_bytes(published.read_bytes())
    write_dpg(tmp_path, [row("0", "1", "0"), row("unknown", "1", "0")])
    items = Dpg().load(tmp_path, "all")
    assert items[0].prompt.startswith("An expansive field") and items[1].prompt == "text of unknown"


def row(
    item: str, number: str, dependency: str, content: str = "relation - spatial (cat, box, left of)"
) -> Sequence[str]:
    return (item, f"text of {item}", "k", number, dependency, "relation", "spatial", content, f"Is {number} so?")


def write_dpg(folder: Path, rows: Sequence[Sequence[str]]) -> None:
    write_csv(folder / "dpg_bench.csv", COLUMNS, [SKIPPED, *rows])


def test_dpg_reads_trees_and_categories(tmp_path: Path) -> None:
    write_dpg(tmp_path, [row("x1", "1", "0", "global - (photo)"), row("x1", "3", "1, 2"), row("x1", "2", "0", "")])
    (item,) = Dpg().load(tmp_path, "spatial")
    assert [(each.id, each.parents, each.category, each.row) for each in item.questions] == [
        ("1", (), "global -", 1),
        ("3", ("1", "2"), "relation - spatial", 2),
        ("2", (), "relation - spatial", 3),
    ]
    assert item.images == 4
    assert [problem.fatal for problem in Dpg().check(tmp_path)] == [False]


def test_quotes_inside_a_field_are_read_as_pandas_reads_them(tmp_path: Path) -> None:
    write_dpg(tmp_path, [row("x", "1", "0")])
    path = tmp_path / "dpg_bench.csv"
    path.write_text(path.read_text().replace("text of x", '"a ""red"" dog"s and a 5" nail') + "\n")
    (item,) = Dpg().load(tmp_path, "all")
    assert item.prompt == 'a "red" dogs and a 5" nail'


def test_dpg_warns_of_files_at_which_the_official_script_fails(tmp_path: Path) -> None:
    write_csv(tmp_path / "dpg_bench.csv", COLUMNS, [row("7", "1", "0"), row("7", "2", "1")])
    texts = "\n".join(problem.text for problem in Dpg().check(tmp_path))
    assert "single numbers only" in texts and "numbers only as item_id" in texts


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([row("x", "one", "0")], r"row 1: proposition_id must be a number .* 'one' and '0'"),
        ([row("x", "1", "0;2")], r"row 1: proposition_id must be a number .* '0;2'"),
        ([("x", "t")], r"row 1, must have 9 fields"),
        ([], "has no rows"),
    ],
)
def test_dpg_names_the_row_that_is_wrong(tmp_path: Path, rows: list[Sequence[str]], message: str) -> None:
    write_dpg(tmp_path, rows)
    with pytest.raises(UserError, match=message):
        Dpg().load(tmp_path, "all")


def write_tiif(folder: Path, prompts: Sequence[object], questions: Sequence[object]) -> None:
    for name, lines in (
        ("testmini_prompts/style_prompts", prompts),
        ("testmini_eval_prompts/style_eval_prompts", questions),
    ):
        path = folder / "data" / f"{name}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(map(json.dumps, lines)) + "\n\n", "utf-8")


PROMPT = {"type": "style", "short_description": "short", "long_description": "long"}
QUESTIONS = {"type": "style", "yn_question_list": ["Is it? "], "yn_answer_list": ["Yes"], "corrspond_idx": 4}


def test_tiif_joins_prompts_and_questions_by_row(tmp_path: Path) -> None:
    write_tiif(tmp_path, [PROMPT, {**PROMPT, "short_description": "other"}], [QUESTIONS, QUESTIONS])
    items = Tiif().load(tmp_path, "all")
    assert [(item.id, item.prompt) for item in items] == [
        ("style-short-0", "short"), ("style-short-1", "other"), ("style-long-0", "long"), ("style-long-1", "long"),
    ]  # fmt: skip
    assert items[0].questions[0].expected == "Yes" and items[0].images == 1
    assert Tiif().load(tmp_path, "spatial") == ()
    assert [problem.fatal for problem in Tiif().check(tmp_path)] == [False, False]
    assert len(SHA256) == 4


@pytest.mark.parametrize(
    ("prompts", "questions", "message"),
    [
        ([PROMPT, PROMPT], [QUESTIONS], "style has 2 prompts, but questions of 1"),
        ([PROMPT], [{**QUESTIONS, "yn_answer_list": []}], r"jsonl:1 has 1 questions, but 0 answers"),
        ([{"type": "style"}], [QUESTIONS], r"jsonl:1 must have a string as 'short_description'"),
        ([PROMPT], [{**QUESTIONS, "type": "text"}], "has no questions of style"),
        ([PROMPT], [{**QUESTIONS, "yn_answer_list": [True]}], r"must have a list of strings as 'yn_answer_list'"),
        ([], [QUESTIONS], r"has no \.jsonl files"),
        ([7], [QUESTIONS], r"jsonl:1 must be a JSON object"),
    ],
)
def test_tiif_names_what_is_wrong(tmp_path: Path, prompts: list[object], questions: list[object], message: str) -> None:
    write_tiif(tmp_path, prompts, questions)
    with pytest.raises(UserError, match=message):
        Tiif().load(tmp_path, "all")


def test_tiif_asks_in_the_published_wordings_without_running_them(tmp_path: Path) -> None:
    script = tmp_path / "eval" / "eval_with_vlm.py"
    script.parent.mkdir()
    names = ("raw_prompt", "raw_prompt_1", "raw_prompt_2")
    lines = [f"{name} = '''{name}: ##YNQuestions## end'''" for name in names]
    script.write_text("\n".join(["raise SystemExit", *lines, 'x = [{"role": "system", "content": "A critic."}]']))
    write_tiif(tmp_path, [PROMPT] * 40, [QUESTIONS] * 40)
    wording, items = Tiif().wording(tmp_path), Tiif().load(tmp_path, "all")
    calls = [Tiif().ask(item, 0, 1, wording) for item in items]
    assert {call.text for call in calls} == {f"{name}: Is it? end" for name in names}
    assert {(call.system, call.options["temperature"]) for call in calls} == {("A critic.", 1.0)}
    assert calls == [Tiif().ask(item, 0, 1, wording) for item in items], "the same call again"
    assert wording.origin.startswith("published") and Tiif().wording(tmp_path / "no").origin.startswith(
        "of this project"
    )


def test_unigenbench_asks_with_the_published_text_or_ours(tmp_path: Path) -> None:
    content = {"Testpoints": ["Style", LAYOUT_2D], "Testpoint Description": ["ink {x}", "left"]}
    write_csv(
        tmp_path / "test_prompts_en.csv", ("index", "prompt_en", "sub_dims_en"), [("3", "a {cat}", json.dumps(content))]
    )
    benchmark = UniGenBench("short")
    (item,) = benchmark.load(tmp_path, "spatial")
    ours = benchmark.ask(item, 0, 1, benchmark.wording(tmp_path)).text
    assert "a {cat}" in ours and f"\nStyle: ink {{x}}\n{LAYOUT_2D}: left\n" in ours and "<score>" in ours
    script = tmp_path / "eval" / "src" / "eval_common.py"
    script.parent.mkdir(parents=True)
    script.write_text(
        "SYSTEM_PROMPT_EN_TEMPLATE = 'P {prompt} {testpoint} {explanation}'\nEXPLANATION_DICT_EN = {'Style': 'of art'}"
    )
    assert "\nStyle: of art\n" in benchmark.ask(item, 0, 1, benchmark.wording(tmp_path)).text


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            {"tag": "position", "prompt": "p", "include": [{"class": "a", "count": 1, "position": ["left of", 0]}]},
            "earlier",
        ),
        ({"tag": "position", "prompt": "p", "include": [{"class": "a"}]}, "a class and a count"),
        (
            {"tag": "position", "prompt": "p", "include": [{"class": "a", "count": 1, "position": "left"}]},
            "position must be",
        ),
        ({"prompt": "p"}, "string as 'tag'"),
    ],
)
def test_geneval_names_the_prompt_that_is_wrong(tmp_path: Path, line: dict[str, object], message: str) -> None:
    (tmp_path / "evaluation_metadata.jsonl").write_text(json.dumps(line))
    with pytest.raises(UserError, match=message):
        GenEval().load(tmp_path, "all")


@pytest.mark.parametrize("benchmark", [Dpg(), Tiif(), UniGenBench(), UniGenBench("long"), GenEval()])
def test_an_empty_folder_is_a_fatal_problem_that_names_the_way_to_get_the_files(benchmark: Dpg, tmp_path: Path) -> None:
    problems = benchmark.check(tmp_path)
    assert problems and all(each.fatal and "benchmark fetch" in each.text for each in problems)
    with pytest.raises(UserError, match="benchmark fetch"):
        benchmark.load(tmp_path, "all")

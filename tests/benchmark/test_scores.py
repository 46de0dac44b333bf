"""Partial and malformed answers: the official rules with their errors, and fixed rules that count what is missing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from pipelines.benchmark.dpg import Dpg
from pipelines.benchmark.items import Answer, BenchmarkItem, Judgement, Misread, Question, Unreadable
from pipelines.benchmark.scores import Cell, Counts, Stratum, Summary
from pipelines.benchmark.tiif import Tiif
from pipelines.benchmark.tiif_scores import asks_presence
from pipelines.benchmark.unigen import UniGenBench
from pipelines.benchmark.unigen_answers import parse_scores
from pipelines.benchmark.yes_no import meaning, parse_lines

SPATIAL = "relation - spatial"


def dpg_item(
    *rows: tuple[str, str, tuple[str, ...]], images: int = 1, name: str = "a", first: int = 1
) -> BenchmarkItem:
    """rows: id, category and parents of each question, in adjacent rows of the file."""
    questions = tuple(
        Question(key, "?", "yes", category, parents, row=first + number)
        for number, (key, category, parents) in enumerate(rows)
    )
    return BenchmarkItem(name, "", questions, images)


def value(summary: Summary, name: str, table: str | None = None) -> float | None:
    cell = summary.find(name, table)
    assert cell, [each.name for each in summary.cells]
    return cell.value


def dpg(items: Sequence[BenchmarkItem], rows: Sequence[Judgement], protocol: str = "official") -> Summary:
    return Dpg().summarize(items, rows, protocol)  # type: ignore[arg-type]


CHAIN = dpg_item(("1", "entity - whole", ()), ("2", "entity - state", ("1",)), ("3", SPATIAL, ("2",)))


def test_dpg_zeroes_a_question_after_its_parent_was_zeroed() -> None:
    summary = dpg([CHAIN], [Answer("a", 0, ("no", "yes", "yes"))])
    assert value(summary, "overall") == 0.0
    assert value(summary, SPATIAL) == 100.0, "categories count raw answers"


def test_dpg_sees_a_later_parent_before_it_is_zeroed() -> None:
    item = dpg_item(("3", SPATIAL, ("2",)), ("2", "entity - state", ("1",)), ("1", "entity - whole", ()))
    rows = [Answer("a", 0, ("yes", "yes", "no"))]
    assert value(dpg([item], rows), "overall") == pytest.approx(100 / 3)
    assert value(dpg([item], rows, "fixed"), "overall") == 0.0


def test_dpg_drops_an_image_with_an_unknown_parent() -> None:
    items = [dpg_item(("1", SPATIAL, ("9",))), dpg_item(("1", SPATIAL, ()), name="b")]
    rows = [Answer("a", 0, ("yes",)), Answer("b", 0, ("no",))]
    summary = dpg(items, rows)
    assert summary.lost == {"a parent that does not exist": 1} and value(summary, "overall") == 0.0
    assert value(dpg(items, rows, "fixed"), "overall") == 50.0


def test_an_unknown_parent_after_one_that_is_no_is_never_reached() -> None:
    item = dpg_item(("1", SPATIAL, ()), ("2", SPATIAL, ("1", "9")))
    assert dpg([item], [Answer("a", 0, ("no", "yes"))]).lost == {}


def test_dpg_skips_the_first_row_and_keeps_the_last_block_of_an_item() -> None:
    first = dpg_item(("1", SPATIAL, ()), ("2", "entity - whole", ()), first=0)
    assert value(dpg([first], [Answer("a", 0, ("yes", "no"))]), "overall") == 0.0
    assert value(dpg([first], [Answer("a", 0, ("yes", "no"))], "fixed"), "overall") == 50.0
    questions = (*first.questions, Question("1", "?", "yes", "other - text", row=7))
    blocks = replace(first, questions=questions)
    summary = dpg([blocks], [Answer("a", 0, ("no", "no", "yes"))])
    assert value(summary, "overall") == 100.0 and summary.find(SPATIAL) is None
    only_first = dpg_item(("1", SPATIAL, ()), first=0)
    assert sum(dpg([only_first], [Answer("a", 0, ("yes",))]).lost.values()) == 1


def test_a_repeated_id_overwrites_the_question_but_keeps_its_place() -> None:
    item = dpg_item(("1", "entity - whole", ()), ("2", SPATIAL, ("1",)), ("1", "other - text", ()))
    summary = dpg([item], [Answer("a", 0, ("yes", "yes", "no"))])
    assert value(summary, "overall") == 0.0, "question 1 is the third row, and stands before question 2"
    assert summary.find("entity - whole") is None and value(summary, "other - text") == 0.0
    assert value(dpg([item], [Answer("a", 0, ("yes", "yes", "no"))], "fixed"), "entity - whole", "L2") == 100.0


@pytest.mark.parametrize(
    ("given", "official", "fixed"), [("Yes", 0, 100), ("yes ", 0, 100), ("yes.", 0, 100), ("no", 0, 0)]
)
def test_only_the_exact_word_yes_counts_officially(given: str, official: float, fixed: float) -> None:
    item = dpg_item(("1", SPATIAL, ()))
    assert value(dpg([item], [Answer("a", 0, (given,))]), "overall") == official
    assert value(dpg([item], [Answer("a", 0, (given,))], "fixed"), "overall") == fixed


def test_categories_are_those_of_the_last_image_officially_and_of_all_images_fixed() -> None:
    item = dpg_item(("1", SPATIAL, ()), images=4)
    rows = [Answer("a", number, ("yes" if number < 3 else "no",)) for number in range(4)]
    assert value(dpg([item], rows), SPATIAL) == 0.0
    assert value(dpg([item], rows, "fixed"), SPATIAL, "L2") == 75.0
    assert value(dpg([item], rows), "overall") == 75.0


def test_missing_images_are_counted_and_give_a_range() -> None:
    items = [dpg_item(("1", SPATIAL, ()), images=2), dpg_item(("1", SPATIAL, ()), name="b", images=2)]
    rows = [Answer("a", 0, ("yes",)), Unreadable("a", 1, "cut"), Answer("b", 0, ("no",))]
    summary = dpg(items, rows, "fixed")
    cell = summary.find("overall")
    assert cell and (cell.value, cell.lowest, cell.highest) == (50.0, 25.0, 75.0)
    assert summary.unreadable == {"cut": 1, "not judged": 1}
    assert (summary.images_expected, summary.images_judged) == (4, 2)
    official = dpg(items, rows)
    assert value(official, "overall") is None and official.lost == {"an image without answers": 2}


def test_an_empty_folder_has_empty_cells() -> None:
    for protocol in ("official", "fixed"):
        summary = dpg([CHAIN], [], protocol)
        assert {cell.value for cell in summary.cells} == {None}
        assert all((cell.lowest, cell.highest) == (0.0, 100.0) for cell in summary.cells)


def test_a_circle_of_parents_ends() -> None:
    item = dpg_item(("1", SPATIAL, ("2",)), ("2", SPATIAL, ("1",)))
    assert value(dpg([item], [Answer("a", 0, ("yes", "no"))], "fixed"), SPATIAL, "L2 zeroed") == 0.0


def tiif_item(kind: str, *expected: str, index: int = 0, texts: Sequence[str] = ()) -> BenchmarkItem:
    texts = texts or [""] * len(expected)
    questions = tuple(
        Question(str(i), text, right) for i, (text, right) in enumerate(zip(texts, expected, strict=True))
    )
    return BenchmarkItem(f"{kind}-short-{index}", "", questions, 1, kind, "short", index)


def test_tiif_cuts_to_the_shorter_list_and_compares_without_case() -> None:
    items = [tiif_item("style", "Yes", "yes", "no"), tiif_item("style", "yes", index=1)]
    rows = [Answer(items[0].id, 0, (" YES ", "no")), Answer(items[1].id, 0, ("yes", "no", "no"))]
    official = Tiif().summarize(items, rows, "official").find("style|short")
    assert official and (official.numerator, official.denominator, official.value) == (2, 3, 0.6667)
    fixed = Tiif().summarize(items, rows, "fixed").find("style|short")
    assert fixed and (fixed.numerator, fixed.denominator, fixed.missing) == (2, 3, 1) and fixed.value == 2 / 3


def test_tiif_rounds_types_before_it_averages_them() -> None:
    items = [tiif_item("2d_spatial_relation", *["yes"] * 3), tiif_item("action+2d", *["yes"] * 7)]
    rows = [Answer(items[0].id, 0, ("yes", "no", "no")), Answer(items[1].id, 0, ("yes", *["no"] * 6))]
    name = "Basic_Relation - Relation|short"
    assert value(Tiif().summarize(items, rows, "official"), name) == pytest.approx((0.3333 + 0.1429) / 2, abs=1e-12)
    assert value(Tiif().summarize(items, rows, "fixed"), name) == pytest.approx((1 / 3 + 1 / 7) / 2, abs=1e-12)


def test_tiif_leaves_empty_types_out_and_shows_relation_questions_alone() -> None:
    texts = ["Is there a cat in the image?  ", "Is the cat on the left of the dog?"]
    items = [tiif_item("3d_spatial_relation", "yes", "yes", texts=texts), tiif_item("action+2d", "yes")]
    summary = Tiif().summarize(
        items, [Answer(items[0].id, 0, ("yes", "no")), Unreadable(items[1].id, 0, "refused")], "fixed"
    )
    assert value(summary, "Basic_Relation - Relation|short") == 0.5 and value(summary, "action+2d|short") is None
    only = summary.find("BR, relation questions only|short")
    assert only and (only.numerator, only.denominator, only.missing) == (0, 1, 1)
    assert summary.unreadable == {"refused": 1}


def test_an_object_with_a_place_is_no_question_about_presence() -> None:
    assert asks_presence(" Are there trees in the image?")
    assert not asks_presence("Is there a book behind the woman?") and not asks_presence("Is the cat in the image big?")


@pytest.mark.parametrize(
    ("reply", "given"),
    [("no-one is there", ("no",)), ("1. yes", None), ("**yes**", None), ("yes", ("yes",)), ("", None)],
)
def test_a_line_must_begin_with_the_word(reply: str, given: tuple[str, ...] | None) -> None:
    parsed = parse_lines(reply, 1)
    assert (None if isinstance(parsed, Misread) else parsed.values) == given


def test_a_free_answer_means_yes_or_no_or_nothing() -> None:
    assert [meaning(each) for each in ("Yes.", "**no**", " YES", "maybe", "", "none", "1. yes")] == [
        "yes", "no", "yes", "", "", "", "yes",
    ]  # fmt: skip


def unigen_item(*points: str, name: str = "0") -> BenchmarkItem:
    return BenchmarkItem(name, "", tuple(Question(str(i), "", "1", point) for i, point in enumerate(points)), 1)


def scored(item: BenchmarkItem, scores: str, analysis: str | None = None) -> Judgement:
    notes = analysis or str(["so"] * len(item.questions))
    parsed = parse_scores(f"<analysis>{notes}</analysis><score>{scores}</score>", len(item.questions))
    assert not isinstance(parsed, Misread), parsed
    return Answer(item.id, 0, parsed.values, parsed.notes, officially_lost=parsed.officially_lost)


@pytest.mark.parametrize(
    ("scores", "official", "fixed"),
    [
        ("[1, 0]", (1, 2), (1, 2)),
        ("[1.0, 2]", (1, 2), (1, 1)),
        ("[True, False]", (0, 0), (1, 2)),  # saved as JSON, true and false are no Python
        ("[1, None]", (0, 0), (1, 1)),
        ("[1, 1e999]", (0, 0), (1, 1)),
        ("['1', '0']", (0, 2), (1, 2)),
        ("1, 0", (1, 2), (1, 2)),
        ("'10'", (0, 0), (0, 0)),
        ("[[1], 1]", (1, 2), (1, 1)),
    ],
)
def test_unigenbench_scores(scores: str, official: tuple[int, int], fixed: tuple[int, int]) -> None:
    item = unigen_item("Style", "Text Generation")
    answer = scored(item, scores)
    for protocol, expected in (("official", official), ("fixed", fixed)):
        summary = UniGenBench().summarize([item], [answer], protocol)  # type: ignore[arg-type]
        cells = [cell for cell in summary.cells if cell.table == "sub"]
        assert (sum(cell.numerator for cell in cells), sum(cell.denominator for cell in cells)) == expected
        assert sum(cell.denominator + cell.missing for cell in cells) == 2
        assert sum(summary.lost.values()) == (protocol == "official" and official == (0, 0))


def test_a_true_in_the_analysis_is_lost_officially() -> None:
    assert isinstance(answer := scored(unigen_item("Style"), "[1]", "[True]"), Answer) and answer.officially_lost


@pytest.mark.parametrize(
    ("reply", "crash"),
    [
        ("<analysis>['a']</analysis><score>1</score>", "TypeError"),
        ("<analysis>['a']</analysis><score>[{1}]</score>", "TypeError"),
        ("<analysis>{[]: 1}</analysis><score>[1]</score>", "TypeError"),
        ("<analysis>['a', 'b']</analysis><score>1</score>", "TypeError"),
        ("<analysis>['a']</analysis><score>[yes]</score>", ""),
    ],
)
def test_replies_that_end_the_official_run_are_named(reply: str, crash: str) -> None:
    parsed = parse_scores(reply, 1)
    assert isinstance(parsed, Misread) and parsed.official_crash == crash


def test_unigenbench_keeps_the_names_of_two_primary_dimensions_apart() -> None:
    item = unigen_item("Style", "Style - Old", "Compound - A-B")
    summary = UniGenBench().summarize([item], [scored(item, "[1, 0, 1]")], "official")
    assert {cell.name: cell.value for cell in summary.cells if cell.table == "primary"} == {
        "Style": 1.0, "Style ": 0.0, "Compound": 1.0,
    }  # fmt: skip


def test_unigenbench_rounds_to_4_decimals_and_only_officially() -> None:
    items = [unigen_item("Style", name=str(number)) for number in range(3)]
    rows = [scored(item, "[1]" if number else "[0]") for number, item in enumerate(items)]
    assert value(UniGenBench().summarize(items, rows, "official"), "Style", "sub") == 0.6667
    assert value(UniGenBench().summarize(items, rows, "fixed"), "Style", "sub") == 2 / 3


def test_a_cell_is_the_mean_over_groups_of_the_mean_over_strata() -> None:
    strata = (
        Stratum("a", {"x": Counts(1, 2)}, "one"),
        Stratum("b", {"y": Counts(1, 1)}, "one"),
        Stratum("c", {"z": Counts(0, 1, 1)}, "two"),
        Stratum("d", {"u": Counts(0, 0, 2)}, "three"),
    )
    cell = Cell("all", strata, scale="percent")
    assert cell.value == 100 * (0.75 + 0.0) / 2
    assert (cell.numerator, cell.denominator, cell.missing, cell.missing_share) == (2, 4, 3, 3 / 7)
    assert cell.lowest == pytest.approx(25.0) and cell.highest == pytest.approx(75.0)

"""GenEval's rules on boxes, one by one."""

from __future__ import annotations

import pytest

from pipelines.benchmark.geneval_rules import MAX_BOXES, Detection, evaluate, judge, kept
from pipelines.benchmark.items import BenchmarkItem, Question

Clauses = list[dict[str, object]]


def item(include: Clauses, exclude: Clauses | None = None, tag: str = "position") -> BenchmarkItem:
    metadata: dict[str, object] = {
        "tag": tag,
        "include": include,
        "prompt": "",
        **({"exclude": exclude} if exclude else {}),
    }
    return BenchmarkItem("00000", "", (Question("0", "", "yes", tag),), 4, tag, metadata=metadata)


def box(name: str, x: float, y: float, confidence: float = 0.95, size: float = 10, color: str = "") -> Detection:
    """A square around (x, y)."""
    return Detection(name, confidence, x - size / 2, y - size / 2, x + size / 2, y + size / 2, color)


def two(relation: str) -> BenchmarkItem:
    return item([{"class": "dog", "count": 1}, {"class": "cat", "count": 1, "position": [relation, 0]}])


@pytest.mark.parametrize(
    ("x", "y", "held"),
    [
        (50, 0, {"right of"}),
        (-50, 0, {"left of"}),
        (0, -50, {"above"}),
        (0, 50, {"below"}),
        (50, 50, {"right of", "below"}),  # a diagonal holds two
        (-50, -50, {"left of", "above"}),
        (3.9, 0, set()),  # 3.9 - 0.1 * 20 = 1.9 is less than half of 3.9
        (4.1, 0, {"right of"}),
        (0, 0, set()),
    ],
)
def test_a_position_needs_half_of_the_distance_beyond_a_tenth_of_the_sizes(x: float, y: float, held: set[str]) -> None:
    found = [box("dog", 0, 0), box("cat", x, y)]
    assert {word for word in ("left of", "right of", "above", "below") if evaluate(two(word), found).right} == held


def test_a_box_counts_above_the_threshold_only_and_counting_has_a_higher_one() -> None:
    found = [box("dog", 0, 0, 0.3), box("dog", 0, 0, 0.31), box("dog", 0, 0, 0.9), box("dog", 0, 0, 0.91)]
    assert len(kept(found, counting=False)["dog"]) == 3 and len(kept(found, counting=True)["dog"]) == 1
    assert evaluate(item([{"class": "dog", "count": 2}]), found).right
    assert not evaluate(item([{"class": "dog", "count": 2}], tag="counting"), found).right


def test_only_the_best_16_boxes_of_a_class_count_and_overlaps_stay() -> None:
    found = [box("dog", 0, 0, 0.5 + number / 100) for number in range(20)]
    assert [each.confidence for each in kept(found, counting=False)["dog"]] == pytest.approx(
        [0.69 - number / 100 for number in range(MAX_BOXES)]
    )
    assert not evaluate(item([{"class": "dog", "count": 17}]), found).right


def test_more_objects_than_asked_for_are_right_unless_they_are_excluded() -> None:
    found = [box("dog", 0, 0)] * 3
    assert evaluate(item([{"class": "dog", "count": 2}]), found).right
    verdict = evaluate(item([{"class": "dog", "count": 2}], [{"class": "dog", "count": 3}]), found)
    assert not verdict.right and verdict.reasons == ("expected dog<3, found 3",)
    assert evaluate(item([{"class": "dog", "count": 2}], [{"class": "dog", "count": 4}]), found).right


def test_all_of_the_best_objects_must_have_the_colour() -> None:
    prompt = item([{"class": "dog", "count": 2, "color": "red"}])
    red, blue = box("dog", 0, 0, 0.9, color="red"), box("dog", 9, 9, 0.8, color="blue")
    assert evaluate(prompt, [red, red, blue]).right
    assert not evaluate(prompt, [red, blue, box("dog", 0, 0, 0.5, color="red")]).right, "the third is not looked at"


def test_every_subject_is_compared_with_every_target() -> None:
    prompt = item([{"class": "dog", "count": 2}, {"class": "cat", "count": 1, "position": ["right of", 0]}])
    assert evaluate(prompt, [box("dog", 0, 0), box("dog", 20, 0), box("cat", 60, 0)]).right
    assert not evaluate(prompt, [box("dog", 0, 0), box("dog", 90, 0), box("cat", 60, 0)]).right


def test_a_target_that_did_not_hold_is_no_target() -> None:
    prompt = item(
        [{"class": "dog", "count": 1, "color": "red"}, {"class": "cat", "count": 1, "position": ["right of", 0]}]
    )
    verdict = evaluate(prompt, [box("dog", 0, 0, color="blue"), box("cat", 60, 0)])
    assert verdict.reasons[1] == "no target for cat to be right of"


def test_no_box_at_all_is_an_answer_and_it_is_no() -> None:
    answer = judge(two("above"), 3, [])
    assert (answer.image, answer.values) == (3, ("no",)) and len(answer.notes) == 2

"""The watch on recorded runs: it finds the flawed reward of docs/reward_hacking.md, and is silent on a healthy one.

The rows of `data/reward_hacking` were written by `python -m tests.bench.reward_hacking`.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pipelines.policy.evaluation_history import best_evaluation, with_history
from pipelines.policy.metrics import EvaluationRow, read_evaluations
from pipelines.policy.watch import fallen

RECORDED = Path(__file__).parent / "data" / "reward_hacking"
FOUND_BY = 10
"""Iteration of the flawed run by which the watch must have found it."""


def history(name: str) -> list[EvaluationRow]:
    """The rows of a recorded run, with falls that are computed again."""
    recorded = read_evaluations(RECORDED / f"{name}.jsonl")
    unseen = [{name: {**each, "fall": 0.0} for name, each in row.measures.items()} for row in recorded]
    plain = [replace(row, measures=measures) for row, measures in zip(recorded, unseen, strict=True)]
    return [with_history(row, plain[:number], "reward") for number, row in enumerate(plain)]


def test_the_flawed_reward_is_found() -> None:
    rows = history("flawed")
    assert rows[-1].reward_mean > rows[0].reward_mean, "the trained reward alone looks well"
    found = [row.iteration for row in rows if "rules" in fallen(row.measures)]
    assert found and 0 < found[0] <= FOUND_BY
    assert "fully correct" in fallen(rows[-1].measures), "so does the exact verdict"


@pytest.mark.parametrize("name", ["healthy"])
def test_the_healthy_run_is_left_alone(name: str) -> None:
    rows = history(name)
    assert rows[-1].reward_mean > rows[0].reward_mean
    assert [fallen(row.measures) for row in rows] == [""] * len(rows)


def test_the_best_version_by_the_watched_reward_is_an_earlier_one() -> None:
    rows = history("flawed")
    by_reward, by_rules = best_evaluation(rows, "reward"), best_evaluation(rows, "rules")
    assert by_reward is not None and by_rules is not None and by_rules.iteration < by_reward.iteration

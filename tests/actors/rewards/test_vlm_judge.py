"""The grade in the answer of the VLM judge."""

from __future__ import annotations

import numpy as np
import pytest

from actors.rewards.vlm_judge import parse_grade


@pytest.mark.parametrize(("answer", "grade"), [("7", 7.0), ("Grade: 8.5", 8.5)])
def test_a_grade_is_one_number_from_0_to_10(answer: str, grade: float) -> None:
    assert parse_grade(answer) == grade


@pytest.mark.parametrize("answer", ["11", "7 of 10", "none"])
def test_every_other_answer_has_no_grade(answer: str) -> None:
    assert np.isnan(parse_grade(answer))

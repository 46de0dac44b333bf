"""A small campaign: the goals of the large one, with room for chance, and the old rule beside it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bench.campaign import run_campaign, settings_of, whole_pair_votes
from tests.bench.campaign_build import calls_of


@pytest.mark.slow
def test_strict_pairs_are_good_and_cost_few_votes(tmp_path: Path) -> None:
    settings = settings_of(tmp_path, 60, "judge", [])
    result = run_campaign("checked", settings)
    assert result.accepted >= 60 and result.strict >= 50
    assert result.good_strict >= result.strict - 1
    assert 2 <= result.votes / result.accepted <= 3.3
    whole = whole_pair_votes(settings)
    assert whole.accepted < result.accepted and whole.votes / whole.accepted > result.votes / result.accepted
    asked = calls_of(settings)
    assert run_campaign("checked", settings) == result and calls_of(settings) == asked, "a second start asks nothing"

"""How many candidates a campaign lacks, what it costs, and the judge's errors against people."""

from __future__ import annotations

import pytest

from conf import load
from pipelines.preferences.claims import ClaimRule
from pipelines.preferences.cost import campaign_cost, cost_report
from pipelines.preferences.dataset.shards import plan_shards
from pipelines.preferences.extend import Count
from pipelines.preferences.review.annotation import Annotation
from pipelines.preferences.review.judge_errors import Overturned, judge_errors
from pipelines.preferences.review.votes import Vote, VoteStage


@pytest.mark.parametrize(
    ("count", "target", "missing"),
    [
        (Count(candidates=0, accepted=0, waiting=0), 100, 400),  # the expected yield of 0.25
        (Count(candidates=200, accepted=50, waiting=0), 100, 200),
        (Count(candidates=200, accepted=80, waiting=0), 100, 50),
        (Count(candidates=200, accepted=50, waiting=100), 100, 0),  # half of those that wait will be accepted
        (Count(candidates=20, accepted=20, waiting=0), 100, 320),  # too few for a measured yield
        (Count(candidates=300, accepted=120, waiting=0), 100, 0),
    ],
)
def test_the_missing_candidates_follow_from_the_measured_yield(count: Count, target: int, missing: int) -> None:
    assert count.missing(target, expected=0.25) == missing


def test_an_extension_changes_no_shard_before_it() -> None:
    settings = load("scenes", ["preferences.pairs=1000", "preferences.shard_rows=130"]).preferences
    first, extended = plan_shards(settings), plan_shards(settings, (1000, 300))
    assert extended[: len(first)] == first and plan_shards(settings, (1000,)) == first
    added = extended[len(first) :]
    assert (added[0].start, added[-1].stop) == (1000, 1300)
    assert [shard.index for shard in extended] == list(range(len(extended)))
    assert {shard.generator for shard in added} == {"renderer", "base"}


def test_the_cost_of_the_papers_campaign() -> None:
    settings = load("flux_dev", ["run_dir=/nowhere"])
    cost = campaign_cost(settings)
    assert (cost.target, cost.candidates) == (80000, 160000)
    qwen, hunyuan, seedream = cost.generators
    assert qwen.images == hunyuan.images == seedream.images == round(2 * 160000 * 2 / 3)
    assert qwen.pflop == 7.0 and hunyuan.pflop == 12.0 and seedream.pflop == 0.0
    assert cost.prices["seedream"] == pytest.approx(seedream.images * 0.03)
    assert cost.calls["writer"] == 208000 and cost.prices["writer"] == pytest.approx(
        208000 * (900 * 0.625 + 4000 * 5) / 1e6
    )
    text = cost_report(cost, settings)
    assert "budget.cost=2000" in text and "assumed: preferences.expected_yield" in text
    plain = campaign_cost(
        load("flux_dev", ["run_dir=/nowhere", "preferences.image_check=none", "qwen_image.denoise_steps=8"])
    )
    assert plain.generators[0].images == round(160000 * 2 / 3) and plain.generators[0].pflop == pytest.approx(
        7 * 8 / 50
    )


def _vote(pair: str, name: str, stage: VoteStage, winner: str, loser: str) -> Vote:
    """A vote whose answers are given by their first letters."""
    words = {"y": "yes", "n": "no", "u": "unsure", "-": ""}
    annotation = Annotation(*(tuple(words[letter] for letter in side) for side in (winner, loser)))  # type: ignore[arg-type]
    return Vote(f"{pair}{name}", pair, name, stage, annotation, "accept", "w", 1.0, 0.0)


def test_overturned_answers_of_the_judge_are_counted_apart_for_the_random_sample() -> None:
    rule = ClaimRule("perturbed", 2, 1, (2,), 1)
    rows = [
        {
            "pair_id": "a",
            "image_check": {"winner": ["yes", "yes", "yes"], "loser": ["yes", "unsure", "no"], "audit": False},
        },
        {"pair_id": "b", "image_check": {"winner": ["yes", "no", "yes"], "loser": ["yes", "yes", "no"], "audit": True}},
        {"pair_id": "c", "image_check": None},
    ]
    votes = [
        _vote("a", "x", "review", "yyy", "yyn"),
        _vote("a", "y", "review", "yny", "yyn"),
        _vote("a", "z", "adjudication", "-n-", "---"),
        _vote("b", "x", "review", "yyy", "yyn"),
        _vote("b", "y", "review", "yyy", "yyn"),
        _vote("c", "x", "review", "yyy", "yyn"),
    ]
    errors = judge_errors(rows, dict.fromkeys("abc", rule), votes, annotators_per_pair=2)
    assert (errors.passed, errors.sample) == (Overturned(5, 1), Overturned(6, 1))
    assert "16.7% of 6 answers" in str(errors)

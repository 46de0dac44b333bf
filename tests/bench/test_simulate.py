"""The simulated run loses nothing, breaks no rule, and takes the virtual seconds that one can work out by hand."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest

from conf import Settings, load
from pipelines.common.seeds import group_seeds
from tests.bench.simulation.run import Failures, Outcome, simulate
from tests.bench.simulation.workers import Seconds

SECONDS = Seconds(
    sample_image=1.0, learn_pass=3.0, passes=1, score_group=2.0, optimizer_step=5.0, publish=1.0, checkpoint=0.5,
    start_rollout=30.0, start_learner=40.0, start_reward=20.0,
)  # fmt: skip
COLOCATED = ("policy.placement=colocated", "policy.learner.ranks=7", "policy.rollout.max_actors=0")
SEPARATE = ("policy.placement=separate", "policy.learner.ranks=3", "policy.rollout.max_actors=4")


def settings_of(folder: Path, *overrides: str) -> Settings:
    """flux_dev with small groups, and two iterations."""
    prompts = folder / "prompts.jsonl"
    prompts.write_text("\n".join(json.dumps({"text": f"a cup left of {number} plates"}) for number in range(8)))
    staged = (
        "policy.rollout.min_actors=1" if "policy.placement=separate" in overrides else "policy.rollout.min_actors=0"
    )
    small = [
        f"run_dir={folder / 'run'}", f"policy.prompts={prompts}", "policy.iterations=2", "policy.group_size=4",
        "policy.algorithm.top_k=1", "policy.sampling.batch=2", "policy.learner.replay_batch=2",
        "policy.evaluation.every=0", "policy.prompts_per_iteration=12", "serving.gpus=1", "policy.learner.gpus=1",
        "policy.rollout.gpus=1", "serving.min_replicas=1", "serving.max_replicas=1", staged,
    ]  # fmt: skip
    return load("flux_dev", [*small, *overrides])


def test_an_iteration_takes_what_one_works_out_by_hand(tmp_path: Path) -> None:
    """Two groups, one GPU a role: sampled at 4 and 8 s, scored at 6 and 10, learned at 9 and 13, stepped at 18."""
    settings = settings_of(
        tmp_path, "policy.placement=separate", "policy.learner.ranks=1", "policy.rollout.max_actors=1",
        "policy.prompts_per_iteration=2", "policy.optimizer.steps_per_iteration=1", "policy.sampling.batch=4",
        "policy.learner.replay_batch=4",
    )  # fmt: skip
    outcome = simulate(settings, SECONDS, gpus=3)
    assert [row["iteration_seconds"] for row in outcome.rows] == pytest.approx([19.0, 19.0])  # published at 19
    assert outcome.rows[1]["learn_seconds"] == pytest.approx(2 * 3.0 + 5.0)
    first, second = outcome.marks
    worked = {kind: second.gpu_seconds[kind] - first.gpu_seconds[kind] for kind in ("sample", "learn", "score")}
    assert worked == pytest.approx({"sample": 8.0, "learn": 11.0, "score": 4.0})


def check_nothing_is_lost(settings: Settings, outcome: Outcome) -> None:
    """Every group was sampled under the staleness rule, and learned once by each version."""
    policy, ledger = settings.policy, outcome.ledger
    assert [row["iteration"] for row in outcome.rows] == list(range(1, policy.iterations + 1))
    for iteration in range(policy.iterations):
        learned: defaultdict[tuple[int, ...], Fraction] = defaultdict(Fraction)
        for seeds, part in ledger.learned[iteration]:
            learned[seeds] += Fraction(part.stop - part.start, part.of)
        assert set(learned.values()) == {1} and len(learned) == policy.prompts_per_iteration
        kept = {seed for seeds in learned for seed in seeds}
        for index in range(policy.prompts_per_iteration):
            seeds = group_seeds(policy.seed, iteration, index, policy.group_size)
            assert len(kept & set(seeds)) == 2 * policy.algorithm.top_k
            assert all(iteration - policy.max_staleness <= ledger.version_of[seed] <= iteration for seed in seeds)


@pytest.mark.parametrize(
    "overrides",
    [COLOCATED, SEPARATE, (*SEPARATE, "policy.max_staleness=1")],
    ids=["colocated", "separate", "one version stale"],
)
def test_eight_gpus_sample_and_learn_every_group_once(tmp_path: Path, overrides: tuple[str, ...]) -> None:
    settings = settings_of(tmp_path, *overrides)
    outcome = simulate(settings, SECONDS, gpus=8, jitter=0.05)
    check_nothing_is_lost(settings, outcome)
    assert set(outcome.ledger.sampled.values()) == {1}
    assert len(outcome.ledger.sampled) == 2 * 12 * 4


@pytest.mark.parametrize("overrides", [COLOCATED, SEPARATE], ids=["colocated", "separate"])
def test_gpus_that_fail_cost_time_only(tmp_path: Path, overrides: tuple[str, ...]) -> None:
    """One GPU fails every 250 s, with the rank, rollout actor or replica on it. Iterations take about 60 s."""
    settings = settings_of(tmp_path, *overrides, "policy.iterations=8")
    slow = replace(SECONDS, learn_pass=20.0)
    undisturbed = simulate(replace(settings, run_dir=str(tmp_path / "other")), slow, gpus=8)
    outcome = simulate(settings, slow, gpus=8, failures=Failures(125.0, 250.0), seed=1)
    check_nothing_is_lost(settings, outcome)
    last = outcome.rows[-1]
    assert outcome.failures >= 2 and last["learner_restarts"] + last["actors_replaced"] >= 1
    assert outcome.seconds > undisturbed.seconds

"""`status` answers the operator's questions from what a run writes."""

from __future__ import annotations

import io
import json
import os
import time
from dataclasses import asdict, fields
from pathlib import Path

import pytest
from ray.util.state.common import ActorState, NodeState
from rich.console import Console

from conf import load
from pipelines.operations.cluster_state import describe
from pipelines.operations.stage_cache import StageRecord, write_record
from pipelines.operations.stages import STEPS
from pipelines.operations.status import sparkline, watch
from pipelines.policy.metrics import IterationRow, RunLog
from pipelines.policy.progress import wait_breakdown

NOWHERE = "status.address=http://127.0.0.1:9"


def row(iteration: int, **values: float) -> IterationRow:
    numbers = {field.name: 0 if field.type == "int" else 0.5 for field in fields(IterationRow)}
    return IterationRow(**{**numbers, "iteration": iteration, **values})  # type: ignore[arg-type]


def shown(run_dir: Path, *rows: IterationRow) -> str:
    (run_dir / "policy").mkdir(exist_ok=True)
    lines = "".join(json.dumps(asdict(each)) + "\n" for each in rows)
    (run_dir / "policy" / "metrics.jsonl").write_text(lines + '{"iteration": 9')  # one is being written
    return told(run_dir)


def told(run_dir: Path, *more: str) -> str:
    out = io.StringIO()
    settings = load("scenes", [f"run_dir={run_dir}", "status.once=true", "policy.iterations=64", NOWHERE, *more])
    watch(settings, Console(file=out, width=200))
    return out.getvalue()


def test_a_healthy_run_and_a_sick_one_are_told_apart(tmp_path: Path) -> None:
    settings = load("scenes", [f"run_dir={tmp_path}"])
    write_record(STEPS[0].record_path(settings), StageRecord("digest", "told", 66.0))
    well = shown(tmp_path, row(1, reward_mean=1.0), row(2, reward_mean=3.0, ratio_drift=1e-6, score_latency_seconds=0.1))
    assert "2/64 versions" in well and "✓ preferences 66 s" in well and "· fit" in well
    assert "▁█" in well and "nothing" in well and "policy.algorithm.ratio_tolerance" not in well
    sick = shown(tmp_path, row(3, ratio_drift=1e-2, score_latency_seconds=9.0, actors_replaced=2))
    assert (
        "above policy.algorithm.ratio_tolerance" in sick
        and "raise serving.max_replicas" in sick
        and "actors replaced 2" in sick
    )


def test_who_waits_for_whom_is_told_as_in_the_log(tmp_path: Path) -> None:
    waiting = row(1, iteration_seconds=4.0, learn_seconds=3.0, wait_for_images_seconds=0.7, wait_for_scores_seconds=0.2,
                  wait_for_ranks_seconds=0.5, publish_seconds=0.1, rollout_actors=2.0, rollout_idle_seconds=2.0,
                  reward_replicas=3.0, reward_idle_seconds=3.0)  # fmt: skip
    line = next(line for line in shown(tmp_path, waiting).splitlines() if "who waits?" in line)
    assert "learn 3.0, wait for images 0.7, scores 0.2, other ranks 0.5, publish 0.1; idle" in line
    assert "idle: 2 rollouts 25%, 3 rewards 25%" in line
    assert wait_breakdown(waiting) in line


def test_late_scores_name_the_settings_of_the_rewards_that_there_are(tmp_path: Path) -> None:
    shown(tmp_path, row(1, score_latency_seconds=9.0))
    judged = told(tmp_path, "rewards.spatialscore=0", "rewards.judge=0.1", "rewards.detector=1")
    assert "raise judge.concurrency or detector.max_replicas" in judged and "serving.max_replicas" not in judged
    assert "raise policy.max_staleness" in told(tmp_path, "rewards.spatialscore=0", "rewards.rules=1")


def test_what_was_mended_is_counted_by_driver_and_drivers_outlive_a_rewind(tmp_path: Path) -> None:
    for driver, replaced in enumerate((3, 0), start=1):
        log = RunLog(tmp_path / "policy")
        log.truncate_after(-1)
        log.iteration(row(1, actors_replaced=replaced))
        log.close()
        assert f"since driver {driver} started: " in told(tmp_path)
    assert "nothing mended" in told(tmp_path) and "actors replaced" not in told(tmp_path)


def actor(state: str, repr_name: str = "", name: str = "") -> ActorState:
    return ActorState("id", "SomeClass", state, "1", name, "n", 1, "", repr_name=repr_name)  # type: ignore[arg-type]


def test_the_cluster_s_nodes_actors_and_pending_ones_are_named() -> None:
    nodes = [NodeState("a", "10.0.0.1", True, "ALIVE", None, "head", {"CPU": 8.0, "GPU": 4.0}, {}),
             NodeState("b", "10.0.0.2", False, "DEAD", None, "b", {"CPU": 8.0}, {})]  # fmt: skip
    actors = [actor("ALIVE", "rollout 0"), actor("ALIVE", "learner rank 0 of 1"), actor("DEAD", "rollout 1"),
              actor("PENDING_CREATION", "rollout 2"),
              actor("ALIVE", name="SERVE_REPLICA::spatialscore-1#ScoreReplica#x"),
              actor("ALIVE", name="SERVE_REPLICA::spatialscore-1#ScoreReplica#y")]  # fmt: skip
    state = describe(nodes, actors)
    assert state.nodes == "1 alive, 1 dead: 8 CPUs, 4 GPUs"
    assert state.actors == "2 replicas of spatialscore-1, learner rank 0 of 1, rollout 0; 1 gone"
    assert state.pending == "rollout 2"


def test_where_no_cluster_answers_the_run_is_shown_all_the_same(tmp_path: Path) -> None:
    alone = shown(tmp_path, row(1))
    assert "1/64 versions" in alone and "pending?" not in alone


def test_a_run_without_a_policy_says_so(tmp_path: Path) -> None:
    assert "not published a version" in shown(tmp_path)


def test_a_sparkline_spans_its_values_and_leaves_gaps() -> None:
    assert sparkline([0.0, None, 0.5, 1.0]) == "▁ ▄█"
    assert sparkline([2.0, 2.0]) == "▁▁" and sparkline([]) == ""


@pytest.mark.parametrize(
    ("iteration", "spent", "stands_still"), [(3, 200.0, True), (3, 300.0, False), (64, 9.0, False)]
)
def test_a_run_whose_time_is_up_is_not_one_that_stands_still(
    tmp_path: Path, iteration: int, spent: float, stands_still: bool
) -> None:
    """Five minutes and 64 versions are asked for; the last row is an hour old."""
    shown(tmp_path, row(iteration, training_seconds=spent))
    hour_ago = time.time() - 3600
    os.utime(tmp_path / "policy" / "metrics.jsonl", (hour_ago, hour_ago))
    assert ("no progress" in told(tmp_path)) is stands_still

"""`status` answers the operator's questions from the files of a run."""

from __future__ import annotations

import io
import json
import os
import time
from dataclasses import MISSING, asdict, fields
from pathlib import Path

import pytest
from ray.util.state.common import ActorState, NodeState
from rich.console import Console

from conf import UserError, load
from pipelines.common.paths import run_paths
from pipelines.operations.answer import sparkline
from pipelines.operations.cluster_summary import summarize
from pipelines.operations.stage_cache import STEP_STAGES, StageRecord, write_record
from pipelines.operations.stages import STEPS
from pipelines.operations.status import show_status
from pipelines.policy.lineage import Change, record_changes
from pipelines.policy.metrics import EvaluationRow, IterationRow
from pipelines.policy.run_log import RunLog
from pipelines.policy.waits import wait_breakdown

NO_DASHBOARD = "status.address=http://127.0.0.1:9"


def numbers_of(record: type[IterationRow | EvaluationRow]) -> dict[str, float]:
    """0 or 0.5 for each field that is a number."""
    plain = [field for field in fields(record) if field.default_factory is MISSING]
    return {field.name: 0 if field.type == "int" else 0.5 for field in plain}


def iteration_row(iteration: int, **values: float) -> IterationRow:
    """A row whose other values are 0 or 0.5."""
    numbers = numbers_of(IterationRow)
    return IterationRow(**{**numbers, "iteration": iteration, **values})  # type: ignore[arg-type]


def write_rows(run_dir: Path, *rows: IterationRow) -> Path:
    """Writes the metrics of a run whose next row is being written. Returns the file."""
    path = run_paths(load("scenes", [f"run_dir={run_dir}"])).metrics
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(asdict(row)) + "\n" for row in rows) + '{"iteration": 9')
    return path


def status_of(run_dir: Path, *overrides: str, width: int = 220) -> str:
    """What `status` prints about a run of 64 iterations."""
    out = io.StringIO()
    words = [f"run_dir={run_dir}", "status.once=true", "policy.iterations=64", NO_DASHBOARD, *overrides]
    show_status(load("scenes", words), Console(file=out, width=width))
    return out.getvalue()


def test_lines_of_a_narrow_terminal_stay_beside_their_question(tmp_path: Path) -> None:
    write_rows(tmp_path, *(iteration_row(number, score_latency_seconds=99.0) for number in range(1, 60)))
    for width in (36, 44, 60):
        lines = status_of(tmp_path, width=width).splitlines()
        answers = lines[next(number for number, line in enumerate(lines) if line.startswith("steps")) :]
        assert all(len(line.rstrip()) <= width for line in answers)
        assert all(line.startswith(" " * 13) or line[:13].strip().endswith(("?", "steps")) for line in answers)


def test_a_pipe_gets_the_state_once(tmp_path: Path) -> None:
    out = io.StringIO()
    show_status(load("scenes", [f"run_dir={tmp_path}", NO_DASHBOARD]), Console(file=out))
    assert out.getvalue().count("steps") == 1


def line_of(text: str, question: str) -> str:
    return next(line.rstrip() for line in text.splitlines() if line.startswith(question))


def test_a_healthy_run_has_ok_on_every_line(tmp_path: Path) -> None:
    settings = load("scenes", [f"run_dir={tmp_path}"])
    assert [step.name for step in STEPS] == list(STEP_STAGES)
    write_record(STEPS[0].record_path(settings), StageRecord("digest", "summary", 66.0))
    metrics = write_rows(
        tmp_path,
        iteration_row(1, reward_mean=1.0),
        iteration_row(2, reward_mean=3.0, ratio_drift=1e-6, score_latency_seconds=0.1),
    )
    text = status_of(tmp_path)
    assert "✓ preferences 66 s" in text and "· reward" in text
    assert "2/64 iterations" in text and "▁█" in text and "max |ratio-1| 1e-06" in text
    for question in ("progress?", "on-policy?", "rewards?"):
        assert line_of(text, question).endswith("ok")
    assert line_of(text, "failures?").count("nothing") == 2
    assert "newest iteration: nothing, since start" in text
    assert "s ago" in text
    os.utime(metrics, (0, time.time() - 7500))
    assert "newest 2:05 h ago" in status_of(tmp_path)


def test_a_sick_run_says_what_to_do(tmp_path: Path) -> None:
    write_rows(
        tmp_path, iteration_row(3, ratio_drift=1e-2, score_latency_seconds=9.0, actors_replaced=2, groups_skipped=5)
    )
    text = status_of(tmp_path)
    assert line_of(text, "on-policy?").endswith("above policy.algorithm.ratio_tolerance")
    assert line_of(text, "rewards?").endswith("raise serving.max_replicas")
    assert "newest iteration: 5 skipped groups" in text and "2 replaced actors" in text


def test_waits_are_shown_as_in_the_log(tmp_path: Path) -> None:
    row = iteration_row(
        1,
        iteration_seconds=4.0,
        learn_seconds=3.0,
        wait_for_images_seconds=0.7,
        wait_for_ranks_seconds=0.5,
        rollout_actors=2.0,
        rollout_idle_seconds=2.0,
    )
    write_rows(tmp_path, row)
    assert wait_breakdown(row) in line_of(status_of(tmp_path), "waiting?")


def test_what_changed_in_the_run_is_shown(tmp_path: Path) -> None:
    write_rows(tmp_path, iteration_row(30))
    assert "changed?" not in status_of(tmp_path)
    record_changes(run_paths(load("scenes", [f"run_dir={tmp_path}"])).lineage, 20, [Change("rewards.rules", 0.0, 1.0)])
    assert "): rewards.rules 0 → 1" in line_of(status_of(tmp_path), "changed?")


def test_late_scores_name_the_settings_of_the_rewards_in_use(tmp_path: Path) -> None:
    write_rows(tmp_path, iteration_row(1, score_latency_seconds=9.0))
    text = status_of(tmp_path, "rewards.spatialscore=0", "rewards.judge=0.1", "rewards.detector=1")
    assert "raise judge.concurrency or detector.max_replicas" in text and "serving.max_replicas" not in text
    assert "raise policy.max_staleness" in status_of(tmp_path, "rewards.spatialscore=0", "rewards.rules=1")


def test_recoveries_are_counted_for_each_driver_and_starts_survive_a_rewind(tmp_path: Path) -> None:
    paths = run_paths(load("scenes", [f"run_dir={tmp_path}"]))
    for driver, replaced in enumerate((3, 0), start=1):
        log = RunLog(paths)
        log.truncate_after(-1)
        log.iteration(iteration_row(1, actors_replaced=replaced))
        log.close()
        assert f"since start {driver} of the driver: " in status_of(tmp_path)
    assert "since start 2 of the driver: nothing" in status_of(tmp_path)


def actor(state: str, repr_name: str = "", name: str = "") -> ActorState:
    return ActorState("id", "SomeClass", state, "1", name, "n", 1, "", repr_name=repr_name)  # type: ignore[arg-type]


def test_nodes_actors_and_pending_actors_are_named() -> None:
    nodes = [
        NodeState("a", "10.0.0.1", True, "ALIVE", None, "head", {"CPU": 8.0, "GPU": 4.0}, {}),
        NodeState("b", "10.0.0.2", False, "DEAD", None, "b", {"CPU": 8.0}, {}),
    ]
    actors = [
        actor("ALIVE", "rollout 0"),
        actor("ALIVE", "learner rank 0 of 1"),
        actor("DEAD", "rollout 1"),
        actor("PENDING_CREATION", "rollout 2"),
        actor("ALIVE", name="SERVE_REPLICA::spatialscore-1#ScoreReplica#x"),
        actor("ALIVE", name="SERVE_REPLICA::spatialscore-1#ScoreReplica#y"),
    ]
    cluster = summarize(nodes, actors)
    assert cluster.nodes == "1 alive, 1 dead: 8 CPUs, 4 GPUs"
    assert cluster.actors == "2 replicas of spatialscore-1, learner rank 0 of 1, rollout 0; 1 dead"
    assert cluster.pending == "rollout 2"
    assert summarize(nodes, [actor("DEAD", "rollout 1")]).actors == "1 dead"


def test_a_run_is_shown_if_no_cluster_answers(tmp_path: Path) -> None:
    write_rows(tmp_path, iteration_row(1))
    text = status_of(tmp_path)
    assert "1/64 iterations" in text and "pending?" not in text


def test_a_run_without_a_policy_says_so(tmp_path: Path) -> None:
    assert "no policy version has been published yet" in status_of(tmp_path)


def test_a_missing_run_directory_is_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there is no run in .*nowhere"):
        status_of(tmp_path / "nowhere")


def evaluation_row(iteration: int, **values: object) -> dict[str, object]:
    numbers = numbers_of(EvaluationRow)
    return {**numbers, "iteration": iteration, "best_iteration": iteration, **values}


def test_no_measurement_is_broken_at_80_columns(tmp_path: Path) -> None:
    write_rows(tmp_path, *(iteration_row(number, reward_mean=float(number)) for number in range(1, 121)))
    rows = [
        evaluation_row(0, relation_accuracy_short=0.25, relation_accuracy_long=0.125),
        evaluation_row(100, relation_accuracy_short=0.75, relation_accuracy_long=0.625),
    ]
    path = run_paths(load("scenes", [f"run_dir={tmp_path}"])).evaluations
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = status_of(tmp_path, width=80)
    assert max(map(len, text.splitlines())) <= 80
    for measurement in (
        "120/64 iterations",
        "max |ratio-1| 5e-01 before the first optimizer step",
        "relations correct: short prompts 25.0% → 75.0%",
        "long prompts 12.5% → 62.5%",
        "best version so far 100",
        "0.50 s from a group's images to its scores",
    ):
        assert any(measurement in line for line in text.splitlines()), measurement


@pytest.mark.parametrize(("fall", "shown"), [(0.8, "rises while this falls: sharpness -0.8 std"), (0.4, "ok")])
def test_a_measure_that_falls_while_the_reward_rises_is_named(tmp_path: Path, fall: float, shown: str) -> None:
    write_rows(tmp_path, iteration_row(10))
    measures = {"sharpness": {"mean": 2.0, "spread": 1.0, "fall": fall}}
    path = run_paths(load("scenes", [f"run_dir={tmp_path}"])).evaluations
    path.write_text(json.dumps(evaluation_row(10, measures=measures)) + "\n")
    assert line_of(status_of(tmp_path), "held out?").endswith(shown)


@pytest.mark.parametrize(("unscored", "shown"), [(64, "of hpsv3 (64 of 64 images): see the driver's log"), (6, "ok")])
def test_a_watched_reward_without_scores_is_named(tmp_path: Path, unscored: int, shown: str) -> None:
    write_rows(tmp_path, iteration_row(10))
    measures = {"hpsv3": {"mean": None, "spread": None, "fall": None, "missing": unscored}}
    path = run_paths(load("scenes", [f"run_dir={tmp_path}"])).evaluations
    path.write_text(json.dumps(evaluation_row(10, images=64, measures=measures)) + "\n")
    assert line_of(status_of(tmp_path), "held out?").endswith(shown)


def test_the_sparkline_shows_the_whole_run() -> None:
    rising = sparkline([float(number) for number in range(1, 121)])
    assert len(rising) == 40 and rising[0] == "▁" and rising[-1] == "█" and list(rising) == sorted(rising)


def test_a_sparkline_spans_its_values_and_leaves_gaps() -> None:
    assert sparkline([0.0, None, 0.5, 1.0]) == "▁ ▄█"
    assert sparkline([2.0, 2.0]) == "▁▁" and sparkline([]) == ""


@pytest.mark.parametrize(("iteration", "spent", "stalled"), [(3, 200.0, True), (3, 300.0, False), (64, 9.0, False)])
def test_a_finished_run_is_not_reported_as_stalled(tmp_path: Path, iteration: int, spent: float, stalled: bool) -> None:
    """The run may take five minutes and 64 iterations; its last row is an hour old."""
    path = write_rows(tmp_path, iteration_row(iteration, training_seconds=spent))
    hour_ago = time.time() - 3600
    os.utime(path, (hour_ago, hour_ago))
    assert ("no progress" in status_of(tmp_path, "policy.minutes=5")) is stalled

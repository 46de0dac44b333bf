"""The records of a run survive interrupted writes and full disks."""

from __future__ import annotations

import json
import math
from dataclasses import MISSING, fields, replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from conf import load
from pipelines.common.paths import RunPaths
from pipelines.policy.metrics import EvaluationRow, IterationRow, read_evaluations, read_iteration, read_rows
from pipelines.policy.run_log import RunLog, track_policy

VALUES: dict[str, Any] = {field.name: 1.0 for field in fields(EvaluationRow) if field.name != "measures"}
ROW = EvaluationRow(**{**VALUES, "iteration": 7, "images": 2, "best_iteration": 7})


def test_an_incomplete_row_is_dropped_when_a_run_resumes(tmp_path: Path) -> None:
    paths = RunPaths(tmp_path)
    paths.policy.mkdir()
    rows = [json.dumps({"iteration": version}) for version in (1, 2, 3)]
    paths.metrics.write_text("\n".join([*rows, rows[0][:7]]))
    log = RunLog(paths)
    log.truncate_after(2)
    log.close()
    assert [row["iteration"] for row in read_rows(paths.metrics)] == [1, 2]


DAMAGED = (
    b'{"iteration": 8, "tr',
    b"[8]",
    b"null",
    b'{"iteration": "8"}',
    b"{}",
    b"\xff",
    b'{"a": 1, "a": 2}',
    b"[" * 50_000,
)


def test_rows_that_are_damaged_are_skipped_and_swallow_no_other_row(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The files after a killed driver, an editor and a bad disk. `status` and a resumed run read them."""
    paths = RunPaths(tmp_path)
    log = RunLog(paths)
    evaluation = {**vars(ROW), "reward_mean": None}
    paths.evaluations.write_bytes(b"\n".join([*DAMAGED, json.dumps(evaluation).encode(), b'{"iteration": 8, "tr']))
    log.evaluation(replace(ROW, iteration=9), Image.new("RGB", (4, 4)))
    rows = read_evaluations(paths.evaluations)
    assert [row.iteration for row in rows] == [7, 9] and math.isnan(rows[0].reward_mean)
    assert [row["reward_mean"] for row in read_rows(paths.evaluations, EvaluationRow)] == [None, 1.0]
    assert len(caplog.records) == 1 and "9 unreadable lines are skipped" in caplog.text
    log.truncate_after(8)
    log.close()
    (line,) = paths.evaluations.read_text().splitlines()
    assert json.loads(line) == evaluation
    paths.drivers.write_bytes(b'{"started": 1}\n[1]\n{"sta')
    RunLog(paths).close()
    assert paths.drivers.read_bytes().count(b"started") == 2


def test_a_number_that_older_rows_lack_is_nan_and_a_count_is_not(tmp_path: Path) -> None:
    row = {field.name: 1 for field in fields(IterationRow) if field.default_factory is MISSING}
    assert read_iteration({name: 1 for name in row if name != "driver_starts"}).driver_starts == 0
    assert math.isnan(read_iteration({name: 1 for name in row if name != "kl"}).kl)
    rewards = {"judge": {"mean": None, "std": 1}}
    assert math.isnan(read_iteration(row | {"rewards": rewards}).rewards["judge"]["mean"])
    for wrong in (
        {"rewards": [1]},
        {"images": None},
        {"images": 1.5},
        {"images": True},
        {"kl": "1"},
        {"iteration": "1"},
    ):
        with pytest.raises(TypeError, match=f"{next(iter(wrong))} must be a"):
            read_iteration(row | wrong)


def test_nan_is_null_in_the_file_and_images_are_truncated_too(tmp_path: Path) -> None:
    paths = RunPaths(tmp_path)
    log = RunLog(paths)
    values = {field.name: getattr(ROW, field.name) for field in fields(ROW)}
    log.evaluation(EvaluationRow(**values | {"relation_accuracy_long": math.nan}), Image.new("RGB", (4, 4)))
    assert '"relation_accuracy_long": null' in paths.evaluations.read_text()
    (row,) = read_evaluations(paths.evaluations)
    assert math.isnan(row.relation_accuracy_long)
    assert row.iteration == 7
    assert [path.name for path in paths.images.iterdir()] == ["000007.png"]
    log.truncate_after(6)
    log.close()
    assert read_evaluations(paths.evaluations) == ()
    assert list(paths.images.iterdir()) == []


def test_a_full_disk_does_not_end_the_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A folder stands where the file should be, as on a disk that refuses. Later the disk has room again."""
    paths = RunPaths(tmp_path)
    log = RunLog(paths)
    paths.evaluations.mkdir()
    log.evaluation(ROW, Image.new("RGB", (4, 4)))
    assert "the metrics of version 7 were not written" in caplog.text
    paths.evaluations.rmdir()
    log.evaluation(ROW, Image.new("RGB", (4, 4)))
    log.close()
    assert log.has_evaluation(7)
    assert not log.has_evaluation(6)


def test_drivers_are_counted(tmp_path: Path) -> None:
    paths = RunPaths(tmp_path)
    for _ in range(2):
        log = RunLog(paths)
        log.truncate_after(-1)
        log.close()
    assert len(paths.drivers.read_text().splitlines()) == 2


@pytest.mark.parametrize("row", [IterationRow, EvaluationRow])
def test_the_guide_explains_every_field(row: type[IterationRow | EvaluationRow]) -> None:
    guide = (Path(__file__).parents[2] / "docs" / "policy.md").read_text()
    assert [field.name for field in fields(row) if f"`{field.name}`" not in guide] == []


def test_settings_of_every_tracked_section_can_be_sent(tmp_path: Path) -> None:
    with track_policy(load("scenes", [f"run_dir={tmp_path}", "rewards.judge.weight=0"])):
        pass

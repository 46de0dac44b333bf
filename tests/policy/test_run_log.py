"""The records of a run survive interrupted writes and full disks."""

from __future__ import annotations

import json
import math
from dataclasses import fields
from pathlib import Path

import pytest
from PIL import Image

from pipelines.common.paths import RunPaths
from pipelines.policy.metrics import EvaluationRow, IterationRow, read_evaluations, read_rows
from pipelines.policy.run_log import RunLog

ROW = EvaluationRow(**{field.name: 1.0 for field in fields(EvaluationRow)} | {"iteration": 7, "images": 2})


def test_an_incomplete_row_is_dropped_when_a_run_resumes(tmp_path: Path) -> None:
    paths = RunPaths(tmp_path)
    paths.policy.mkdir()
    rows = [json.dumps({"iteration": version}) for version in (1, 2, 3)]
    paths.metrics.write_text("\n".join([*rows, rows[0][:7]]))
    log = RunLog(paths)
    log.truncate_after(2)
    log.close()
    assert [row["iteration"] for row in read_rows(paths.metrics)] == [1, 2]


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
    assert len(read_rows(paths.drivers)) == 2


@pytest.mark.parametrize("row", [IterationRow, EvaluationRow])
def test_the_guide_explains_every_field(row: type[IterationRow | EvaluationRow]) -> None:
    guide = (Path(__file__).parents[2] / "docs" / "policy.md").read_text()
    assert [field.name for field in fields(row) if f"`{field.name}`" not in guide] == []

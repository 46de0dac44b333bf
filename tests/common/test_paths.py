"""The layout of a run directory."""

from __future__ import annotations

from pathlib import Path

import pytest

from conf import load
from pipelines.common.paths import RunPaths, pairs_locations, run_paths, spatialscore_folder


def test_paths_are_absolute_and_distinct(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    paths = run_paths(load("scenes", ["run_dir=runs/x"]))
    names = [name for name in dir(RunPaths) if isinstance(getattr(RunPaths, name), property)]
    found = [getattr(paths, name) for name in names]
    assert paths.root == tmp_path / "runs/x"
    assert all(path.is_relative_to(paths.root) for path in found)
    assert len(set(found)) == len(found) > 40
    assert all(getattr(RunPaths, name).__doc__ for name in names)


def test_records_and_runs_of_an_ablation_lie_below_the_run_directory() -> None:
    paths = RunPaths(Path("/runs/x"))
    assert paths.stage_record("reward", "fit") == Path("/runs/x/reward/_fit.record.json")
    assert paths.ablation_run("no-filter", 2).export == Path("/runs/x/ablation/no-filter/seed-2/policy/export")
    assert paths.evaluation_images("base") == Path("/runs/x/evaluation/base")


def test_settings_can_name_other_pairs_and_another_reward_model() -> None:
    own = load("scenes", ["run_dir=/runs/x"])
    assert pairs_locations(own) == ("/runs/x/preferences",)
    assert spatialscore_folder(own) == Path("/runs/x/reward/model")
    other = load("scenes", ["run_dir=/runs/x", "reward.pairs=s3://bucket/1.0.0?region=x", "serving.model=/models/s"])
    assert pairs_locations(other) == ("s3://bucket/1.0.0/data?region=x",)
    several = load("scenes", ["run_dir=/runs/x", "reward.pairs=[/sets/a, /sets/b]"])
    assert pairs_locations(several) == ("/sets/a/data", "/sets/b/data")
    assert spatialscore_folder(other) == Path("/models/s")

"""A build whose roles call services over HTTP: failing services, budgets, and kills at any time."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow.dataset as ds
import pytest

from actors.services.budget import BudgetReached
from conf import Settings, load
from pipelines.common.paths import RunPaths
from pipelines.preferences.build import IncompleteBuildError, build_preferences
from tests.support.kill import killing
from tests.support.openai_server import ANSWERS, ONCE, Behaviour, scene_of, serving

PAIRS = 48
KEY = "sk-secret-of-the-test"
SERVICES = ("writer", "perturber", "seedream")


def _overrides(run_dir: Path, url: str, *more: str) -> list[str]:
    """Settings for a build by services, reviewed by the exact checker."""
    services = [
        f"{name}.{key}={value}"
        for name in SERVICES
        for key, value in {"url": url, "key_variable": "SERVICE_KEY", "timeout": 5, "max_backoff_s": 0.5}.items()
    ]
    return [
        f"run_dir={run_dir}",
        f"preferences.pairs={PAIRS}",
        "preferences.shard_rows=8",
        "preferences.writer=chat",
        "preferences.perturber=chat",
        "preferences.corrupted_fraction=0",
        "preferences.generated_fraction=0",
        "preferences.generators.renderer=0",
        "preferences.generators.seedream=1",
        "preferences.test_fraction=0.3",
        "writer.max_relations=3",
        "writer.min_words=8",
        "seedream.size=64x64",
        *services,
        *more,
    ]


def _settings(run_dir: Path, url: str, *more: str) -> Settings:
    return load("scenes", _overrides(run_dir, url, *more))


def _rows(run_dir: Path) -> list[dict[str, Any]]:
    table = ds.dataset(RunPaths(run_dir).preferences, format="parquet").to_table().sort_by("pair_id")
    return table.drop_columns(["provenance"]).to_pylist()


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVICE_KEY", KEY)


@pytest.fixture(scope="module")
def undisturbed(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run without failures."""
    run_dir = tmp_path_factory.mktemp("undisturbed")
    with pytest.MonkeyPatch.context() as patch, serving(Behaviour()) as url:
        patch.setenv("SERVICE_KEY", KEY)
        build_preferences(_settings(run_dir, url))
    return run_dir


@pytest.mark.ray
def test_rows_match_their_prompts_and_no_group_is_in_two_splits(undisturbed: Path) -> None:
    rows = _rows(undisturbed)
    assert [row["pair_id"] for row in rows] == [f"pair-{i:08d}" for i in range(PAIRS)]
    for row in rows:
        before, after = (scene_of(row[name]) for name in ("prompt", "perturbed_prompt"))
        assert [vars(relation) for relation in before.relations] == row["relations"]
        differing = sum(one != other for one, other in zip(before.words, after.words, strict=True))
        assert differing == row["n_perturb"] == len(row["perturbations"])
    groups = {split: {row["group_id"] for row in rows if row["split"] == split} for split in ("train", "test")}
    assert groups["train"] and groups["test"] and not groups["train"] & groups["test"]


@pytest.mark.ray
def test_failures_of_all_kinds_lose_no_row_and_a_repetition_costs_nothing(
    undisturbed: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    behaviour = Behaviour({**dict.fromkeys(ONCE, 0.05), **dict.fromkeys(ANSWERS, 0.1), "never": 0.04}, slow_seconds=6)
    with serving(behaviour) as url:
        settings = _settings(tmp_path, url)
        build_preferences(settings)
        assert all(behaviour.failures[name] for name in (*ONCE, *ANSWERS, "never")), behaviour.failures
        paths = RunPaths(tmp_path)
        manifest = json.loads(paths.preferences_manifest.read_text())
        reports = [json.loads(path.read_text()) for path in paths.preferences_shards.glob("[0-9]*.json")]
        dropped = {end["pair_id"]: end["reason"] for report in reports for end in report["dropped"]}
        rows, expected = _rows(tmp_path), _rows(undisturbed)
        assert sorted([*dropped, *(row["pair_id"] for row in rows)]) == [row["pair_id"] for row in expected]
        assert set(dropped.values()) == {"refused"} and sum(manifest["dropped"].values()) == len(dropped)
        same = {row["pair_id"]: (row["prompt"], row["image_w"], row["image_l"]) for row in expected}
        assert all(same[row["pair_id"]] == (row["prompt"], row["image_w"], row["image_l"]) for row in rows)
        assert re.search(r"\d+ calls \(\d+ retries\), \d+ tokens, \d+ images", capfd.readouterr().out)

        calls = sum(behaviour.seen.values())
        shutil.rmtree(paths.preferences)  # the pairs, not the cached answers
        build_preferences(settings)
        assert _rows(tmp_path) == rows and sum(behaviour.seen.values()) == calls
    assert max(behaviour.answered.values()) == 1 and behaviour.keys == {f"Bearer {KEY}"}
    contents = (path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert not any(KEY.encode() in content for content in contents), "the key must not be in any file"


@pytest.mark.ray
def test_the_next_start_continues_after_a_used_up_budget_and_a_failing_service(
    undisturbed: Path, tmp_path: Path
) -> None:
    behaviour = Behaviour()
    with serving(behaviour) as url:
        with pytest.raises(BudgetReached, match=r"pairs are missing: budget.calls=60 is reached"):
            build_preferences(_settings(tmp_path, url, "budget.calls=60"))
        assert 60 <= sum(behaviour.seen.values()) <= 60 + 3 * 8
    behaviour.shares = {"500": 1.0}
    with (
        serving(behaviour) as url,
        pytest.raises(IncompleteBuildError, match=r"a service did not answer: .* status 500"),
    ):
        build_preferences(_settings(tmp_path, url, *(f"{name}.retries=0" for name in SERVICES)))
    behaviour.shares = {}
    with serving(behaviour) as url:
        build_preferences(_settings(tmp_path, url))
    assert _rows(tmp_path) == _rows(undisturbed) and max(behaviour.answered.values()) == 1


@pytest.mark.ray
def test_a_killed_actor_is_replaced(undisturbed: Path, tmp_path: Path) -> None:
    behaviour = Behaviour(seconds=0.1)

    def half_done() -> bool:
        return sum(behaviour.answered.values()) >= 40

    with serving(behaviour) as url, killing("SeedreamActor", half_done) as killed:
        build_preferences(_settings(tmp_path, url))
    assert killed and _rows(tmp_path) == _rows(undisturbed)


@pytest.mark.slow
@pytest.mark.ray
def test_a_killed_driver_can_start_again_and_gives_the_same_pairs(undisturbed: Path, tmp_path: Path) -> None:
    behaviour = Behaviour(seconds=0.05)
    environment = {**os.environ, "SERVICE_KEY": KEY, "PYTHONPATH": str(Path(__file__).parents[2])}
    with serving(behaviour) as url:
        program = "import sys; from pipelines.cli import main; sys.exit(main(sys.argv[1:]))"
        command = [sys.executable, "-c", program, "preferences", "build", "scenes", *_overrides(tmp_path, url)]
        for answers in (60, 130):
            process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            while sum(behaviour.answered.values()) < answers and process.poll() is None:
                time.sleep(0.05)
            assert process.poll() is None, "the driver must still run when it is killed"
            process.send_signal(signal.SIGKILL)
            process.wait()
        subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
    assert _rows(tmp_path) == _rows(undisturbed)
    paid_twice = sum(times - 1 for times in behaviour.answered.values())
    assert paid_twice <= 2 * 3 * 8, "only calls in flight at a kill may be repeated"

"""The whole job by real HTTP: services that misbehave in every way at once, budgets, and kills at any moment."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pyarrow.dataset as ds
import pytest

from actors.services.budget import BudgetReached
from conf import Settings, load
from pipelines.preferences.build import RowsLeft, build_preferences
from pipelines.scenes import grammar
from tests.support.kill import killing
from tests.support.openai_server import ANSWERS, FRAME, ONCE, Behaviour, serving

PAIRS = 48
KEY = "sk-secret-of-the-test"
SERVICES = ("writer", "perturber", "seedream")


def words(run_dir: Path, url: str, *more: str) -> list[str]:
    """The job as overrides: everything by services, reviewed by the exact checker."""
    services = [
        f"{name}.{key}={value}"
        for name in SERVICES
        for key, value in {"url": url, "key_variable": "SERVICE_KEY", "timeout": 5, "max_backoff_s": 0.5}.items()
    ]
    return [
        f"run_dir={run_dir}", f"preferences.pairs={PAIRS}", "preferences.shard_rows=8", "preferences.writer=chat",
        "preferences.corrupted_fraction=0", "preferences.generated_fraction=0", "preferences.perturber=chat",
        "preferences.generators.renderer=0", "preferences.generators.seedream=1", "preferences.test_fraction=0.3",
        "writer.max_relations=3", "writer.min_words=8", "seedream.size=64x64", "preferences.benchmark_single_edit=2",
        "preferences.benchmark_multi_edit=3", *services, *more,
    ]  # fmt: skip


def settings_of(run_dir: Path, url: str, *more: str) -> Settings:
    return load("scenes", words(run_dir, url, *more))


def rows(run_dir: Path) -> list[dict]:
    table = ds.dataset(run_dir / "preferences", format="parquet").to_table().sort_by("pair_id")
    return table.drop_columns(["provenance"]).to_pylist()


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVICE_KEY", KEY)


@pytest.fixture(scope="module")
def calm(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that nothing disturbs."""
    run_dir = tmp_path_factory.mktemp("calm")
    with pytest.MonkeyPatch.context() as patch, serving(Behaviour()) as url:
        patch.setenv("SERVICE_KEY", KEY)
        build_preferences(settings_of(run_dir, url))
    return run_dir


@pytest.mark.ray
def test_pairs_are_what_they_say_and_the_benchmark_is_drawn_without_leaks(calm: Path) -> None:
    made = rows(calm)
    assert [row["pair_id"] for row in made] == [f"pair-{i:08d}" for i in range(PAIRS)]
    for row in made:
        before, after = (
            grammar.parse(row[name].removeprefix(FRAME).strip()) for name in ("prompt", "perturbed_prompt")
        )
        assert [vars(relation) for relation in before.relations] == row["relations"]
        differing = sum(one != other for one, other in zip(before.words, after.words, strict=True))
        assert differing == row["n_perturb"] == len(row["perturbations"])
    sizes = Counter((row["split"], row["n_perturb"] > 1) for row in made)
    assert (sizes["benchmark", False], sizes["benchmark", True]) == (2, 3)
    groups = {
        split: {row["group_id"] for row in made if row["split"] == split} for split in ("train", "test", "benchmark")
    }
    assert not groups["train"] & (groups["test"] | groups["benchmark"]) and not groups["test"] & groups["benchmark"]


@pytest.mark.ray
def test_all_troubles_at_once_lose_nothing_and_a_rerun_pays_for_nothing(
    calm: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    behaviour = Behaviour({**dict.fromkeys(ONCE, 0.05), **dict.fromkeys(ANSWERS, 0.1), "never": 0.04}, slow_seconds=6)
    with serving(behaviour) as url:
        settings = settings_of(tmp_path, url)
        build_preferences(settings)
        assert all(behaviour.troubles[name] for name in (*ONCE, *ANSWERS, "never")), behaviour.troubles
        manifest = json.loads((tmp_path / "preferences" / "_manifest.json").read_text())
        reports = [json.loads(path.read_text()) for path in (tmp_path / "preferences" / ".shards").glob("*.json")]
        ends = {end["pair_id"]: end["reason"] for report in reports for end in report["dropped"]}
        made, expected = rows(tmp_path), rows(calm)
        assert sorted([*ends, *(row["pair_id"] for row in made)]) == [row["pair_id"] for row in expected]
        assert set(ends.values()) == {"refused"} and sum(manifest["dropped"].values()) == len(ends)
        same = {row["pair_id"]: (row["prompt"], row["image_w"], row["image_l"]) for row in expected}
        assert all(same[row["pair_id"]] == (row["prompt"], row["image_w"], row["image_l"]) for row in made)
        assert re.search(r"\d+ calls \(\d+ repeated\), \d+ tokens, \d+ images", capfd.readouterr().out)

        asked = sum(behaviour.seen.values())
        shutil.rmtree(tmp_path / "preferences")  # the pairs, not the answers
        build_preferences(settings)
        assert rows(tmp_path) == made and sum(behaviour.seen.values()) == asked
    assert max(behaviour.answered.values()) == 1 and behaviour.keys == {f"Bearer {KEY}"}
    texts = (path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert not any(KEY.encode() in text for text in texts)


@pytest.mark.ray
def test_a_budget_and_a_silent_service_end_the_job_and_the_next_start_goes_on(calm: Path, tmp_path: Path) -> None:
    behaviour = Behaviour()
    with serving(behaviour) as url:
        with pytest.raises(BudgetReached, match=r"pairs are not made: budget.calls=60 is reached"):
            build_preferences(settings_of(tmp_path, url, "budget.calls=60"))
        assert 60 <= sum(behaviour.seen.values()) <= 60 + 3 * 8
    behaviour.shares = {"500": 1.0}
    with serving(behaviour) as url, pytest.raises(RowsLeft, match=r"start again to make them: .* status 500"):
        build_preferences(settings_of(tmp_path, url, *(f"{name}.retries=0" for name in SERVICES)))
    behaviour.shares = {}
    with serving(behaviour) as url:
        build_preferences(settings_of(tmp_path, url))
    assert rows(tmp_path) == rows(calm) and max(behaviour.answered.values()) == 1


@pytest.mark.ray
def test_a_killed_actor_is_replaced(calm: Path, tmp_path: Path) -> None:
    behaviour = Behaviour(seconds=0.1)
    begun = lambda: sum(behaviour.answered.values()) >= 40  # noqa: E731
    with serving(behaviour) as url, killing("SeedreamGenerating", begun) as killed:
        build_preferences(settings_of(tmp_path, url))
    assert killed and rows(tmp_path) == rows(calm)


@pytest.mark.slow
@pytest.mark.ray
def test_a_killed_driver_starts_again_and_ends_with_the_same_pairs(calm: Path, tmp_path: Path) -> None:
    behaviour = Behaviour(seconds=0.05)
    environment = {**os.environ, "SERVICE_KEY": KEY, "PYTHONPATH": str(Path(__file__).parents[2])}
    with serving(behaviour) as url:
        program = "import sys; from pipelines.cli import main; sys.exit(main(sys.argv[1:]))"
        job = [sys.executable, "-c", program, "preferences", "build", "scenes", *words(tmp_path, url)]
        for answers in (60, 130):
            process = subprocess.Popen(job, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            while sum(behaviour.answered.values()) < answers and process.poll() is None:
                time.sleep(0.05)
            assert process.poll() is None, "the job must be under way when it is killed"
            process.send_signal(signal.SIGKILL)
            process.wait()
        subprocess.run(job, env=environment, check=True, stdout=subprocess.DEVNULL)
    assert rows(tmp_path) == rows(calm)
    paid_twice = sum(times - 1 for times in behaviour.answered.values())
    assert paid_twice <= 2 * 3 * 8, "only what was under way at a kill may be asked for again"

"""A judge that is killed and started again: the same bytes as without, and no answer is paid twice."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from pipelines.benchmark.judging import name_judge
from pipelines.common.paths import run_paths
from pipelines.scenes.answering import answer_chat
from tests.support.benchmark_run import judge_here, rendered_run
from tests.support.openai_server import Behaviour, serving

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
CONCURRENCY = 2
OVERRIDES = ("benchmark.names=[unigenbench]", "benchmark.judge=endpoint", "benchmark.chunk_images=8")
SCRIPT = """
import sys
from conf import load
from pipelines.benchmark.work import load_work
from pipelines.common.paths import run_paths
from tests.support.benchmark_run import judge_here
settings = load("scenes", sys.argv[1:])
judge_here(settings, load_work(settings), ("base", "policy"), run_paths(settings))
"""


def test_a_killed_judge_continues_with_the_same_bytes_and_pays_nothing_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BENCH_KEY", "sk-secret")
    behaviour = Behaviour(reply=lambda body, _: answer_chat(body), seconds=0.2)
    with serving(behaviour) as url:
        common = [
            *OVERRIDES, f"unigenbench_judge.url={url}", "unigenbench_judge.key_variable=BENCH_KEY",
            f"unigenbench_judge.concurrency={CONCURRENCY}",
        ]  # fmt: skip
        settings, work = rendered_run(tmp_path / "killed", common)
        overrides = [
            f"run_dir={tmp_path / 'killed'}",
            "evaluation.short_prompts=6",
            "evaluation.long_prompts=6",
            *common,
        ]
        killed = subprocess.Popen(
            [sys.executable, "-c", SCRIPT, *overrides], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}
        )
        while sum(behaviour.answered.values()) < 21:
            assert killed.poll() is None, "it ended before it could be killed"
            time.sleep(0.05)
        killed.kill()
        killed.wait()
        parts = list((tmp_path / "killed" / "benchmark").rglob("*.parts/*.parquet"))
        judge_here(settings, work, ("base", "policy"), run_paths(settings))
        # Calls that were in flight when it was killed were answered, and nobody was there to save the answers.
        assert sum(behaviour.seen.values()) <= 2 * work[0].images + CONCURRENCY
        assert 0 < len(parts) < 6, "it was killed between two chunks of six"
        undisturbed = replace(settings, run_dir=str(tmp_path / "undisturbed"))
        (tmp_path / "killed" / "benchmark" / "unigenbench" / "judged").rename(tmp_path / "after")
        (tmp_path / "undisturbed").mkdir()
        (tmp_path / "killed" / "benchmark").rename(tmp_path / "undisturbed" / "benchmark")
        judge_here(undisturbed, work, ("base", "policy"), run_paths(undisturbed))
        folder = name_judge(settings, work[0]).folder
        for side in ("base", "policy"):
            expected = (tmp_path / "undisturbed/benchmark/unigenbench/judged" / folder / f"{side}.parquet").read_bytes()
            assert (tmp_path / "after" / folder / f"{side}.parquet").read_bytes() == expected

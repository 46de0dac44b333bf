"""Jobs on a real head with token authentication: followed to their exit code, stopped, submitted again, resuming."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from conf import SettingsError
from pipelines.cli import VERBS, understand
from tests.operations.head import Head, running_head

ROOT = Path(__file__).parents[2]
RUN = [
    "mix.spatialscore=0", "mix.rules=1", "policy.iterations=6", "policy.prompts_per_step=2", "policy.group_size=4",
    "policy.top_k=1", "policy.steps=3", "policy.trained_steps=1", "policy.replay_rows=4", "policy.checkpoint_every=1",
    "policy.evaluate_every=0", "policy.rollout_actors=1", "policy.learner_threads=1",
]  # fmt: skip


def test_the_words_after_submit_are_the_job_s_command() -> None:
    action, settings = understand(["submit", "policy", "train", "flux_dev", "run_dir=/shared/a", "submit.follow=false"])
    assert action is VERBS["submit"]["run"]
    assert settings.submit.command == "spatialt2i policy train flux_dev run_dir=/shared/a"
    assert not settings.submit.follow


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], "submit policy train flux_dev"),
        (["polcy"], "did you mean policy"),
        (["policy", "flux_dev"], "absolute path that every node sees, got runs/flux_dev"),
        (["policy", "run_dir=/shared/a", "policy.lrr=1"], "lrr"),
    ],
)
def test_a_command_that_cannot_run_is_refused_before_it_is_sent(words: list[str], expected: str) -> None:
    with pytest.raises(SettingsError, match=expected):
        understand(["submit", *words])


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    with running_head() as head:
        yield head


def submit(head: Head, *words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "pipelines.cli", "submit", *words, f"submit.address={head.dashboard}"]
    return subprocess.Popen(
        command, env=head.environment, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def rows(run_dir: Path) -> list[dict[str, float]]:
    metrics = run_dir / "policy" / "metrics.jsonl"
    return [json.loads(line) for line in metrics.read_text().splitlines()] if metrics.exists() else []


@pytest.mark.slow
def test_a_job_is_followed_stopped_and_resumed(head: Head, tmp_path: Path) -> None:
    """Ctrl-C, asked to, stops the job in mid-run; the same command again ends what it began, with exit code 0."""
    words = ["policy", "train", f"run_dir={tmp_path}", *RUN, "policy.iterations=40"]
    complete = tmp_path / "policy" / "checkpoints" / "000002" / "manifest.json"
    first = submit(head, *words, "submit.stop_on_interrupt=true")
    deadline = time.monotonic() + 120
    while not complete.exists() and first.poll() is None and time.monotonic() < deadline:
        time.sleep(0.1)
    first.send_signal(signal.SIGINT)
    told, _ = first.communicate(timeout=60)
    assert first.returncode == 130 and "stopped raysubmit" in told, told
    begun = rows(tmp_path)
    assert 2 <= len(begun) < 40
    second = submit(head, *words)
    told, _ = second.communicate(timeout=180)
    assert second.returncode == 0, told
    finished = rows(tmp_path)
    assert [row["iteration"] for row in finished] == list(range(1, 41))
    assert finished[:2] == begun[:2]  # timings too: they were not made again
    assert "policy   40/40" in told


@pytest.mark.slow
def test_a_job_s_own_exit_code_comes_back(head: Head, tmp_path: Path) -> None:
    job = submit(head, "policy", "sample", f"run_dir={tmp_path}")
    told, _ = job.communicate(timeout=120)
    assert job.returncode == 1 and "sample.text is empty" in told and "failed" in told


@pytest.mark.slow
def test_ray_s_own_client_runs_the_readme_s_command(head: Head, tmp_path: Path) -> None:
    command = ["ray", "job", "submit", "--address", head.dashboard, "--working-dir", ".", "--",
               "spatialt2i", "policy", "train", f"run_dir={tmp_path}", *RUN, "policy.iterations=1"]  # fmt: skip
    result = subprocess.run(command, env=head.environment, cwd=ROOT, capture_output=True, text=True, timeout=180)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-2000:]
    assert len(rows(tmp_path)) == 1

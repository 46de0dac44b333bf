"""Jobs on a real head with token authentication: followed to their exit code, stopped, submitted again, resuming."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from conf import SettingsError
from pipelines.cli import VERBS, understand
from pipelines.policy.metrics import read_rows
from tests.support.browser import Browser, wait_for
from tests.support.head import Head, running_head

ROOT = Path(__file__).parents[2]
RUN = [
    "rewards.spatialscore=0", "rewards.rules=1", "policy.iterations=10000", "policy.minutes=0", "policy.prompts_per_iteration=2",
    "policy.group_size=4", "policy.algorithm.top_k=1", "policy.sampling.denoise_steps=3", "policy.sampling.window=1", "policy.learner.replay_batch=4",
    "policy.checkpoint.every=1", "policy.evaluation.every=0", "policy.rollout.max_actors=1", "policy.learner.threads=1",
    "policy.optimizer.lr=1e-6",  # from so few images it would unlearn to draw, and a run without any reward ends itself
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


def ended(command: list[str], head: Head, **environment: str) -> tuple[int, str]:
    """Exit code and output of a command that is run to its end."""
    result = subprocess.run(
        command, env=head.environment | environment, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, timeout=300,
    )  # fmt: skip
    return result.returncode, result.stdout


def rows(run_dir: Path) -> list[dict[str, float]]:
    metrics = run_dir / "policy" / "metrics.jsonl"
    return read_rows(metrics)


@dataclass(frozen=True)
class Running:
    """A job that trains for as long as it is let."""

    process: subprocess.Popen[str]
    run_dir: Path

    @property
    def words(self) -> list[str]:
        return ["policy", "train", f"run_dir={self.run_dir}", *RUN]


@pytest.fixture(scope="module")
def running(head: Head, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A submitted policy run that has published two versions."""
    run_dir = tmp_path_factory.mktemp("running")
    process = submit(head, *Running(None, run_dir).words, "submit.stop_on_interrupt=true")  # type: ignore[arg-type]
    deadline = time.monotonic() + 240
    while len(rows(run_dir)) < 2 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.2)
    assert process.poll() is None and len(rows(run_dir)) >= 2, process.communicate()[0]
    yield Running(process, run_dir)
    if process.poll() is None:
        process.kill()


@pytest.mark.slow
def test_status_names_the_cluster_s_actors_and_needs_the_token(head: Head, running: Running) -> None:
    command = [sys.executable, "-m", "pipelines.cli", "status", f"run_dir={running.run_dir}", "status.once=true",
               f"status.address={head.dashboard}"]  # fmt: skip
    code, told = ended(command, head)
    assert code == 0 and "on-policy?" in told and "learner rank 0 of 1" in told and "rollout 0" in told, told
    code, told = ended(command, head, RAY_AUTH_TOKEN="another")
    assert code == 0 and "on-policy?" in told and "tells nothing" in told and "RAY_AUTH_TOKEN" in told, told


@pytest.mark.slow
@pytest.mark.browser
def test_ray_s_dashboard_shows_the_run_s_actors_by_name(head: Head, running: Running, tmp_path: Path) -> None:
    with Browser(tmp_path / "profile", 1600, 1000) as browser:
        browser.command("Network.setCookie", name="ray-authentication-token", value=head.token, url=head.dashboard)
        browser.open(f"{head.dashboard}/#/actors")
        for name in ("rollout 0", "learner rank 0 of 1"):
            wait_for(lambda name=name: name in browser.text("body"), name)


@pytest.mark.slow
def test_a_job_is_stopped_and_ray_s_own_client_resumes_it_by_the_readme_s_command(head: Head, running: Running) -> None:
    """Ctrl-C, asked to, stops the job in mid-run; submitted again it goes on from its newest checkpoint."""
    running.process.send_signal(signal.SIGINT)
    told, _ = running.process.communicate(timeout=120)
    assert running.process.returncode == 130 and "stopped raysubmit" in told, told
    begun = rows(running.run_dir)
    until = (begun[-1]["training_seconds"] + 1) / 60
    code, told = ended(
        ["ray", "job", "submit", "--address", head.dashboard, "--working-dir", ".", "--",
         "spatialt2i", *running.words, f"policy.minutes={until}"], head,
    )  # fmt: skip
    assert code == 0, told[-3000:]
    finished = rows(running.run_dir)
    assert [row["iteration"] for row in finished] == list(range(1, len(finished) + 1))
    assert finished[:2] == begun[:2]  # timings too: they were not made again
    assert finished[-1]["training_seconds"] > begun[-1]["training_seconds"]
    assert (running.run_dir / "policy" / "export" / "pytorch_lora_weights.safetensors").exists()


@pytest.mark.slow
def test_a_job_s_own_exit_code_comes_back(head: Head, tmp_path: Path) -> None:
    told, _ = (job := submit(head, "doctor", f"run_dir={tmp_path}")).communicate(timeout=240)
    assert job.returncode == 0 and "ready for scenes" in told, told
    told, _ = (job := submit(head, "doctor", f"run_dir={tmp_path}", "flux.model=no/such/folder")).communicate(
        timeout=240
    )
    assert job.returncode == 1 and "1 checks failed" in told and "failed" in told, told


@pytest.mark.slow
def test_the_doctor_tells_a_wrong_token_from_the_right_one(head: Head, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pipelines.cli", "doctor", f"run_dir={tmp_path}", f"ray_address={head.address}"]
    code, told = ended(command, head, RAY_AUTH_TOKEN="another")
    assert code == 1 and "the token held here is not the cluster's" in told and "docs/cluster.md" in told, told
    code, told = ended(command, head)
    assert code == 0 and "Ray: joined" in told and head.address.rpartition(":")[2] in told, told

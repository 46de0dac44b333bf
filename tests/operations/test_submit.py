"""Jobs on a real head with token authentication: followed to their exit code, stopped, and resumed."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from conf import SettingsError
from pipelines.cli import VERBS, parse_settings
from pipelines.common.paths import RunPaths
from pipelines.policy.metrics import read_rows
from tests.support.browser import Browser, wait_for
from tests.support.head import Head, running_head

ROOT = Path(__file__).parents[2]
RUN = [
    "rewards.spatialscore=0",
    "rewards.rules=1",
    "policy.iterations=10000",
    "policy.minutes=0",
    "policy.prompts_per_iteration=2",
    "policy.group_size=4",
    "policy.algorithm.top_k=1",
    "policy.sampling.denoise_steps=3",
    "policy.sampling.window=1",
    "policy.learner.replay_batch=4",
    "policy.learner.threads=1",
    "policy.rollout.max_actors=1",
    "policy.checkpoint.every=1",
    "policy.evaluation.every=0",
    # so few images would otherwise ruin the policy, and a run without any finite reward stops itself
    "policy.optimizer.lr=1e-6",
]
"""Overrides of a policy run that goes on until it is stopped."""


def test_the_words_after_submit_are_the_command_of_the_job() -> None:
    action, settings = parse_settings(
        ["submit", "policy", "train", "flux_dev", "run_dir=/shared/a", "submit.follow=false"]
    )
    assert action is VERBS["submit"]["run"]
    assert settings.submit.command == "spatialt2i policy train flux_dev run_dir=/shared/a"
    assert not settings.submit.follow


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], "submit policy train flux_dev"),
        (["polcy"], "did you mean policy"),
        (["policy", "train", "flux_dev"], "absolute path on storage that every node can reach, got runs/flux_dev"),
        (["policy", "train", "run_dir=/shared/a", "policy.lrr=1"], "lrr"),
    ],
)
def test_a_command_that_cannot_run_is_refused_before_it_is_sent(words: list[str], expected: str) -> None:
    with pytest.raises(SettingsError, match=expected):
        parse_settings(["submit", *words])


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    with running_head() as head:
        yield head


def submit(head: Head, *words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "pipelines.cli", "submit", *words, f"submit.address={head.dashboard}"]
    return subprocess.Popen(
        command, env=head.environment, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def run_to_end(command: list[str], head: Head, **environment: str) -> tuple[int, str]:
    """Runs a command to its end. Returns its exit code and its output."""
    result = subprocess.run(
        command,
        env=head.environment | environment,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
        check=False,
    )
    return result.returncode, result.stdout


def rows(run_dir: Path) -> list[dict[str, float]]:
    """The metrics of a run so far."""
    return read_rows(RunPaths(run_dir).metrics)


@dataclass(frozen=True)
class RunningJob:
    """A submitted job that trains until it is stopped."""

    process: subprocess.Popen[str]
    run_dir: Path
    words: list[str]  # its command


@pytest.fixture(scope="module")
def running(head: Head, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningJob]:
    """A submitted policy run that has published two versions."""
    run_dir = tmp_path_factory.mktemp("running")
    words = ["policy", "train", f"run_dir={run_dir}", *RUN]
    process = submit(head, *words, "submit.stop_on_interrupt=true")
    deadline = time.monotonic() + 240
    while len(rows(run_dir)) < 2 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.2)
    assert process.poll() is None and len(rows(run_dir)) >= 2, process.communicate()[0]
    yield RunningJob(process, run_dir, words)
    if process.poll() is None:
        process.kill()


@pytest.mark.slow
def test_status_names_the_actors_of_the_cluster_and_needs_the_token(head: Head, running: RunningJob) -> None:
    command = [
        sys.executable,
        "-m",
        "pipelines.cli",
        "status",
        f"run_dir={running.run_dir}",
        "status.once=true",
        f"status.address={head.dashboard}",
    ]
    code, output = run_to_end(command, head)
    assert code == 0 and "on-policy?" in output and "learner rank 0 of 1" in output and "rollout 0" in output, output
    code, output = run_to_end(command, head, RAY_AUTH_TOKEN="another")
    assert code == 0 and "on-policy?" in output and "refuses" in output and "RAY_AUTH_TOKEN" in output, output


@pytest.mark.slow
def test_a_wrong_token_or_address_is_one_message_and_exit_code_2(head: Head) -> None:
    process = submit(
        replace(head, environment=head.environment | {"RAY_AUTH_TOKEN": "another"}), "doctor", "run_dir=/x"
    )
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 2 and "RAY_AUTH_TOKEN" in output and "Traceback" not in output, output
    process = submit(replace(head, dashboard="http://127.0.0.1:9"), "doctor", "run_dir=/x")
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 2 and "submit.address" in output and "Traceback" not in output, output


@pytest.mark.slow
@pytest.mark.browser
def test_the_dashboard_of_ray_shows_the_actors_by_name(head: Head, running: RunningJob, tmp_path: Path) -> None:
    with Browser(tmp_path / "profile", 1600, 1000) as browser:
        browser.command("Network.setCookie", name="ray-authentication-token", value=head.token, url=head.dashboard)
        browser.open(f"{head.dashboard}/#/actors")
        for name in ("rollout 0", "learner rank 0 of 1"):
            wait_for(lambda name=name: name in browser.text("body"), name)


@pytest.mark.slow
def test_a_job_is_stopped_and_resumed_by_ray_s_own_client(head: Head, running: RunningJob) -> None:
    """Ctrl-C stops the job if the setting asks for it. Submitted again, it continues from its newest checkpoint."""
    running.process.send_signal(signal.SIGINT)
    output, _ = running.process.communicate(timeout=120)
    assert running.process.returncode == 130 and "stopped job raysubmit" in output, output
    before = rows(running.run_dir)
    until = (before[-1]["training_seconds"] + 1) / 60
    command = ["ray", "job", "submit", "--address", head.dashboard, "--working-dir", ".", "--", "spatialt2i"]
    code, output = run_to_end([*command, *running.words, f"policy.minutes={until}"], head)
    assert code == 0, output[-3000:]
    after = rows(running.run_dir)
    assert [row["iteration"] for row in after] == list(range(1, len(after) + 1))
    assert after[:2] == before[:2]  # with their timings: they were not computed again
    assert after[-1]["training_seconds"] > before[-1]["training_seconds"]
    assert (RunPaths(running.run_dir).export / "pytorch_lora_weights.safetensors").exists()


@pytest.mark.slow
def test_the_exit_code_of_a_job_is_returned(head: Head, tmp_path: Path) -> None:
    job = submit(head, "doctor", f"run_dir={tmp_path}")
    output, _ = job.communicate(timeout=240)
    assert job.returncode == 0 and "ready for scenes" in output, output
    job = submit(head, "doctor", f"run_dir={tmp_path}", "flux.model=no/such/folder")
    output, _ = job.communicate(timeout=240)
    assert job.returncode == 1 and "1 check failed" in output, output


@pytest.mark.slow
def test_the_doctor_tells_a_wrong_token_from_the_right_one(head: Head, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pipelines.cli", "doctor", f"run_dir={tmp_path}", f"ray_address={head.address}"]
    code, output = run_to_end(command, head, RAY_AUTH_TOKEN="another")
    assert code == 1 and "this user's token is not the cluster's" in output and "docs/cluster.md" in output, output
    code, output = run_to_end(command, head)
    assert code == 0 and "Ray: connected to" in output and head.address.rpartition(":")[2] in output, output

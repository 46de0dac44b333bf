"""Checkpoints where they are kept: a full disk, a folder that refuses, a damaged newest one, an S3 server."""

from __future__ import annotations

import asyncio
import logging
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray

from actors.files import join, list_folder, write_file
from conf import load
from pipelines.policy.checkpoint import Checkpoints, Manifest, check_resumable, run_identity, training_settings
from pipelines.policy.train import check_start


def test_a_full_disk_leaves_nothing_behind_and_the_old_file_whole(tmp_path: Path) -> None:
    """In a process whose files may not grow beyond 64 KiB: the write that breaks off is an OSError."""
    write_file(str(tmp_path / "state"), b"old")
    code = (
        "import resource, signal, sys; from actors.files import write_file\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, (65536, {resource.RLIM_INFINITY}))\n"
        "try: write_file(sys.argv[1], bytes(2**20))\n"
        "except OSError as error: print('refused:', error)\n"
    )
    said = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "state")], capture_output=True, text=True, check=True,
        cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert "refused:" in said.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["state"] and (tmp_path / "state").read_bytes() == b"old"


def test_a_uri_keeps_its_query() -> None:
    assert join("s3://bucket/run?endpoint_override=host:1&scheme=http", "7") == (
        "s3://bucket/run/7?endpoint_override=host:1&scheme=http"
    )
    assert join("/runs/a", "7") == "/runs/a/7"


def keep_three(location: str, caplog: pytest.LogCaptureFixture) -> None:
    """Four checkpoints of which two are kept; the newest is damaged, so the one before it counts, with a warning."""
    checkpoints = Checkpoints(location, keep=2)
    for version in (1, 2, 3, 4):
        manifest = Manifest(version, 0.0, training_settings(load("scenes")))
        asyncio.run(checkpoints.write(manifest, {"rank-0.pt": ray.put(b"state of %d" % version)}))
    assert list_folder(location) == ["000003", "000004"]
    write_file(join(checkpoints.folder(4), "rank-0.pt"), b"damaged")
    with caplog.at_level(logging.WARNING):
        newest = checkpoints.newest()
    assert newest is not None and newest.version == 3
    assert "000004" in caplog.text and "has changed since it was written" in caplog.text


@pytest.mark.ray
def test_checkpoints_by_uri(ray_cluster: None, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    keep_three(f"file://{tmp_path}/checkpoints", caplog)


@pytest.fixture
def bucket(tmp_path: Path) -> Iterator[str]:
    """A bucket of an S3 server, which is installed into an environment of its own."""
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], check=True)
    installed = subprocess.run(
        [str(python), "-m", "pip", "install", "--quiet", "moto[server]"], capture_output=True, text=True
    )
    if installed.returncode:
        pytest.skip(f"moto[server] cannot be installed here: {installed.stderr[-200:]}")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = subprocess.Popen(
        [str(python.with_name("moto_server")), "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                break
        time.sleep(0.2)
    options = f"endpoint_override=127.0.0.1:{port}&scheme=http&region=us-east-1&allow_bucket_creation=true"
    yield f"s3://test:secret@spatialt2i/run/checkpoints?{options}"
    server.terminate()
    server.wait()


@pytest.mark.ray
@pytest.mark.slow
def test_checkpoints_on_s3(ray_cluster: None, bucket: str, caplog: pytest.LogCaptureFixture) -> None:
    """A real HTTP server that speaks S3, through pyarrow's own client, with rank files written by remote tasks."""
    keep_three(bucket, caplog)


@pytest.mark.ray
def test_a_run_that_cannot_start_says_why(ray_cluster: None, tmp_path: Path) -> None:
    """The session's Ray has four CPUs and no GPU."""
    wants = ["policy.learner.ranks=2", "policy.learner.engine=deepspeed", "policy.learner.gpus=1"]
    with pytest.raises(ValueError, match=r"4 CPUs and 0 GPUs on 1 nodes, where 2 of the learner ranks have no place"):
        check_start(load("scenes", [f"run_dir={tmp_path}", *wants]))
    with pytest.raises(ValueError, match=r"on nodes of group samplers.*lower policy\.rollout\.min_actors"):
        check_start(load("scenes", [f"run_dir={tmp_path}", "policy.rollout.node_group=samplers"]))
    check_start(load("scenes", [f"run_dir={tmp_path}", "policy.rollout.max_actors=64"]))  # one is enough to begin with


def test_counts_that_do_not_divide_are_refused() -> None:
    for override, message in (
        ("policy.sampling.batch=5", "must divide policy.group_size, got 5 and 24.*: take 4 or 6"),
        ("policy.sampling_groups=5", "must divide policy.prompts_per_iteration, got 5 and 12.*: take 4 or 6"),
        ("policy.evaluation.prompts=5", "must be even, got 5"),
        ("policy.rollout.min_actors=3", "policy.rollout.min_actors must lie between 1 and 2"),
        ("policy.optimizer.steps_per_iteration=5", "prompts_per_step must divide.*: take 10 or 15"),
    ):
        with pytest.raises(ValueError, match=message):
            load("scenes", [override])


def test_a_run_goes_on_only_from_what_it_began_with(tmp_path: Path) -> None:
    """Base, SpatialScore, judge and prompts by what they hold; what only rounds otherwise is free."""
    (tmp_path / "score").mkdir()
    (tmp_path / "score" / "weights").write_bytes(b"one")
    (tmp_path / "prompts.jsonl").write_text('{"text": "a dog"}')
    given = [
        f"run_dir={tmp_path}",
        f"serving.model={tmp_path / 'score'}",
        f"policy.prompts={tmp_path / 'prompts.jsonl'}",
    ]
    settings = load("flux_dev", given)
    manifest = Manifest(7, 1.0, run_identity(settings))
    free = ["policy.learner.replay_batch=0", "policy.sampling.batch=24", "policy.algorithm.ratio_tolerance=1e-3", "flux.compile=true",
            "flux.gradient_checkpointing=false", "policy.learner.gpus=0.5", "policy.learner.ranks=1"]  # fmt: skip
    with pytest.raises(ValueError, match="learner_ranks was 8 and is 1"):
        check_resumable(manifest, load("flux_dev", [*given, *free]))
    check_resumable(manifest, load("flux_dev", [*given, *free[:-2]]))
    with pytest.raises(ValueError, match=r"the base was 'black-forest-labs/FLUX.1-dev' and is 'another'"):
        check_resumable(manifest, load("flux_dev", [*given, "flux.model=another"]))
    with pytest.raises(ValueError, match=r"the judge was '' and is 'gpt-5'"):
        check_resumable(manifest, load("flux_dev", [*given, "rewards.judge=1"]))
    (tmp_path / "score" / "weights").write_bytes(b"two")
    with pytest.raises(ValueError, match=r"SpatialScore was '[0-9a-f]{12}' and is .*policy\.resume=never"):
        check_resumable(manifest, settings)
    (tmp_path / "score" / "weights").write_bytes(b"one")
    (tmp_path / "prompts.jsonl").write_text('{"text": "a cat"}')
    with pytest.raises(ValueError, match=r"the file policy\.prompts was"):
        check_resumable(manifest, settings)


@pytest.mark.ray
def test_checkpoints_that_were_passed_over_do_not_crowd_out_new_ones(ray_cluster: None, tmp_path: Path) -> None:
    """Versions 9 and 10 are damaged and the run began again at 0: what it saves is kept, and they go."""
    checkpoints = Checkpoints(str(tmp_path), keep=2)
    for version in (9, 10, 1, 2, 3):
        asyncio.run(checkpoints.write(Manifest(version, 0.0, {}), {"rank-0.pt": ray.put(b"state")}))
    assert checkpoints.complete() == [2, 3]
    newest = checkpoints.newest()
    assert newest is not None and newest.version == 3

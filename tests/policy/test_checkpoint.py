"""Checkpoints are complete or absent, on a local disk and on S3, and survive full disks and damaged files."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest
import ray

from actors.files import exists, join, list_folder, read_file, write_file
from conf import UserError, load
from pipelines.policy.checkpoint import AsyncCheckpointWriter, Checkpoints, Manifest
from pipelines.policy.export import export_newest
from pipelines.policy.resume import training_settings
from tests.support.ports import free_port


def write_versions(checkpoints: Checkpoints, *versions: int) -> None:
    """Writes one checkpoint of one rank per version."""
    for version in versions:
        asyncio.run(checkpoints.write(Manifest(version, 1.5, {}), {"rank-0.pt": ray.put(b"state of %d" % version)}))


def newest_version(checkpoints: Checkpoints) -> int:
    """The version of the newest undamaged checkpoint."""
    newest = checkpoints.newest()
    assert newest is not None
    return newest.version


@pytest.mark.ray
def test_a_checkpoint_without_a_manifest_does_not_count(ray_cluster: None, tmp_path: Path) -> None:
    """A killed run leaves files of ranks without a manifest."""
    checkpoints = Checkpoints(f"file://{tmp_path}/checkpoints", keep=2)
    assert checkpoints.newest() is None
    write_versions(checkpoints, 5, 10, 15)
    assert list_folder(checkpoints.location) == ["000010", "000015"]
    write_file(f"{checkpoints.folder(20)}/rank-0.pt", b"half")
    assert newest_version(checkpoints) == 15
    assert read_file(f"{checkpoints.folder(15)}/rank-0.pt") == b"state of 15"
    assert not any(name.endswith(".partial") for name in list_folder(checkpoints.folder(15)))
    checkpoints.clear()
    assert not exists(f"{checkpoints.folder(15)}/manifest.json")


@pytest.mark.ray
def test_a_failed_write_keeps_the_older_checkpoints(ray_cluster: None, tmp_path: Path) -> None:
    """Files stand where the folders should be, as on a disk that refuses. The third failure in a row is an error."""
    for version in (2, 3, 4):
        (tmp_path / f"{version:06d}").write_text("in the way")
    messages: list[str] = []
    checkpoints = Checkpoints(str(tmp_path), keep=1)
    writer = AsyncCheckpointWriter(checkpoints, messages.append)

    async def run() -> None:
        for version in (1, 2, 3, 4):
            await writer.start(Manifest(version, 0.0, {}), {"rank-0.pt": ray.put(b"state")})
        await writer.finish()

    with pytest.raises(OSError, match="000004"):
        asyncio.run(run())
    failed = [f"checkpoint of version {version} was not written" for version in (2, 3, 4)]
    assert [message.split(",")[0] for message in messages] == failed
    assert newest_version(checkpoints) == 1


def test_a_manifest_reads_back() -> None:
    manifest = Manifest(3, 2.0, training_settings(load("flux_dev")))
    assert Manifest(**json.loads(json.dumps(asdict(manifest)))) == manifest


@pytest.mark.ray
def test_skipped_checkpoints_are_removed_before_new_ones(ray_cluster: None, tmp_path: Path) -> None:
    """Versions 9 and 10 are damaged and the run started again at 0: its new checkpoints are kept."""
    checkpoints = Checkpoints(str(tmp_path), keep=2)
    write_versions(checkpoints, 9, 10, 1, 2, 3)
    assert checkpoints.complete() == [2, 3]
    assert newest_version(checkpoints) == 3


def check_damaged_is_skipped(location: str, caplog: pytest.LogCaptureFixture) -> None:
    """Of four checkpoints two are kept. The newest is damaged, so the one before it counts, with a warning."""
    checkpoints = Checkpoints(location, keep=2)
    write_versions(checkpoints, 1, 2, 3, 4)
    assert list_folder(location) == ["000003", "000004"]
    write_file(join(checkpoints.folder(4), "rank-0.pt"), b"damaged")
    with caplog.at_level(logging.WARNING):
        assert newest_version(checkpoints) == 3
    assert "000004" in caplog.text
    assert "has changed since it was written" in caplog.text


@pytest.mark.ray
def test_a_damaged_checkpoint_is_skipped(ray_cluster: None, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    check_damaged_is_skipped(f"file://{tmp_path}/checkpoints", caplog)


@pytest.fixture
def bucket(tmp_path: Path) -> Iterator[str]:
    """A bucket of an S3 server that is installed into its own environment."""
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], check=True)
    command = [str(python), "-m", "pip", "install", "--quiet", "moto[server]"]
    installed = subprocess.run(command, capture_output=True, text=True, check=False)
    if installed.returncode:
        pytest.skip(f"moto[server] cannot be installed here: {installed.stderr[-200:]}")
    port = free_port()
    server = subprocess.Popen(
        [str(python.with_name("moto_server")), "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
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
def test_a_damaged_checkpoint_on_s3_is_skipped(
    ray_cluster: None, bucket: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A real HTTP server that speaks S3, through pyarrow's client, with files written by Ray tasks."""
    check_damaged_is_skipped(bucket, caplog)


def test_a_run_without_checkpoints_cannot_be_exported(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no complete checkpoint at .*: run `spatialt2i policy train` first"):
        export_newest(load("scenes", [f"run_dir={tmp_path}"]))

"""Checkpoints are complete or absent, on a local disk and on S3, and survive full disks and damaged files."""

from __future__ import annotations

import asyncio
import json
import logging
import math
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import ray

from actors.files import digest, exists, join, list_folder, read_file, write_file
from conf import UserError, load
from pipelines.policy.checkpoint import Checkpoints, Manifest, claim_checkpoints
from pipelines.policy.checkpoint_writer import AsyncCheckpointWriter, write_checkpoint
from pipelines.policy.export import export_newest
from pipelines.policy.resume import training_settings
from tests.support.policy_checkpoint import write_checkpoint_of
from tests.support.ports import free_port


def write_versions(checkpoints: Checkpoints, *versions: int) -> None:
    """Writes one checkpoint of one rank per version."""
    for version in versions:
        state = ray.put(np.frombuffer(b"state of %d" % version, np.uint8))
        asyncio.run(write_checkpoint(checkpoints, Manifest(version, 1.5, {}), {"rank-0.pt": state}))


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


def own_and_foreign(location: Path, elsewhere: Path) -> dict[str, bytes]:
    """Puts files of somebody else into a checkpoint location. Returns them: relative path -> content."""
    content = {
        "2024/photo.jpg": b"photo",
        "2024/manifest.json": b"{}",
        "000001/notes.txt": b"in our own folder",
        "000009/data/rank-0.pt": b"in a folder like ours",
        "notes/todo.txt": b"todo",
    }
    for name, data in content.items():
        write_file(str(location / name), data)
    write_file(str(elsewhere / "rank-0.pt"), b"behind a link")
    (location / "000008").symlink_to(elsewhere)
    return {**content, "000008/rank-0.pt": b"behind a link"}


@pytest.mark.ray
@pytest.mark.parametrize("uri", [False, True])
def test_folders_of_others_are_never_deleted(ray_cluster: None, tmp_path: Path, uri: bool) -> None:
    """Not by pruning, not by writing a version again, not by starting again."""
    folder = tmp_path / "checkpoints"
    checkpoints = Checkpoints(f"file://{folder}" if uri else str(folder), keep=1)
    write_versions(checkpoints, 1)
    content = own_and_foreign(folder, tmp_path / "elsewhere")
    write_versions(checkpoints, 1, 2, 3)
    assert {path.name for path in folder.iterdir()} == {"2024", "000001", "000003", "000008", "000009", "notes"}
    checkpoints.clear()
    assert {name: (folder / name).read_bytes() for name in content} == content
    assert checkpoints.newest() is None and not (folder / "000001" / "rank-0.pt").exists()


def stored(location: str, version: int, /, **changes: object) -> Checkpoints:
    """One checkpoint without Ray. `changes`: keys of its manifest that an editor has changed; ... removes a key."""
    checkpoints = Checkpoints(location, keep=2)
    write_checkpoint_of(checkpoints, version, b"state", **changes)
    return checkpoints


SHA256 = digest(b"state")
EDITED: dict[str, dict[str, object]] = {
    "a version as text": {"version": "2"},
    "another version": {"version": 7},
    "no version": {"version": ...},
    "a fraction": {"version": 2.5},
    "true": {"version": True},
    "seconds as text": {"training_seconds": "1"},
    "NaN": {"training_seconds": math.nan},
    "negative seconds": {"training_seconds": -1.0},
    "settings as a list": {"settings": []},
    "no files": {"files": {}},
    "files are null": {"files": None},
    "files are a list": {"files": [1]},
    "no digest": {"files": {"rank-0.pt": None}},
    "a short digest": {"files": {"rank-0.pt": "abc"}},
    "a name that leaves the folder": {"files": {"../000001/rank-0.pt": SHA256}},
    "an absolute name": {"files": {"/etc/hostname": SHA256}},
    "an empty name": {"files": {"": SHA256}},
    "a dot": {"files": {".": SHA256}},
    "an unknown key": {"note": "edited by hand"},
    "a missing file": {"files": {"rank-0.pt": SHA256, "rank-1.pt": SHA256}},
    "another digest": {"files": {"rank-0.pt": digest(b"other")}},
}


@pytest.mark.parametrize("changes", EDITED.values(), ids=EDITED.keys())
def test_an_edited_manifest_is_passed_over(
    tmp_path: Path, changes: dict[str, object], caplog: pytest.LogCaptureFixture
) -> None:
    stored(str(tmp_path), 1)
    checkpoints = stored(str(tmp_path), 2, **changes)
    with caplog.at_level(logging.WARNING):
        assert newest_version(checkpoints) == 1
    assert f"checkpoint {checkpoints.folder(2)} is damaged and is skipped" in caplog.text


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 100_000, b'{"version": 2', b"\0" * 9]
)
def test_a_manifest_that_is_none_is_passed_over(
    tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    stored(str(tmp_path), 1)
    checkpoints = stored(str(tmp_path), 2)
    write_file(join(checkpoints.folder(2), "manifest.json"), content)
    assert newest_version(checkpoints) == 1 and "000002 is damaged" in caplog.text


def test_folders_in_the_place_of_files_are_passed_over(tmp_path: Path) -> None:
    stored(str(tmp_path), 1)
    for version, name in ((2, "manifest.json"), (3, "rank-0.pt")):
        checkpoints = stored(str(tmp_path), version)
        (tmp_path / f"{version:06d}" / name).unlink()
        (tmp_path / f"{version:06d}" / name).mkdir()
    assert newest_version(checkpoints) == 1


@pytest.mark.parametrize("foreign", ["2024/photo.jpg", "notes.txt", "000001/notes.txt", "000001/manifest.json"])
@pytest.mark.parametrize("resume", ["auto", "never"])
def test_a_folder_with_other_content_is_refused(tmp_path: Path, foreign: str, resume: str) -> None:
    write_file(str(tmp_path / "shared" / foreign), b"mine")
    settings = load("scenes", [f"run_dir={tmp_path}/run", f"policy.checkpoint.dir={tmp_path}/shared"])
    settings = replace(settings, policy=replace(settings.policy, resume=resume))
    with pytest.raises(UserError, match=r"^policy\.checkpoint\.dir=.*set policy\.checkpoint\.dir to a new or empty"):
        claim_checkpoints(settings)
    assert [path.name for path in (tmp_path / "shared").rglob("*") if path.is_file()] == [Path(foreign).name]


def test_checkpoints_of_another_run_are_refused(tmp_path: Path) -> None:
    """A run that was moved or copied as a whole keeps its own."""
    shared = [f"policy.checkpoint.dir=file://{tmp_path}/shared"]
    one, other = (load("scenes", [f"run_dir={tmp_path}/{name}", *shared]) for name in ("one", "other"))
    stored(claim_checkpoints(one).location, 1)
    assert newest_version(claim_checkpoints(one)) == 1
    with pytest.raises(UserError, match=rf"belongs to another run, that of run_dir={tmp_path}/one"):
        claim_checkpoints(other)
    (tmp_path / "one").rename(tmp_path / "moved")
    assert newest_version(claim_checkpoints(load("scenes", [f"run_dir={tmp_path}/moved", *shared]))) == 1


def test_checkpoints_of_an_older_version_are_taken_over(tmp_path: Path) -> None:
    """Version 0.2.0 wrote no markers: a run may resume from its checkpoints, but not delete them at once elsewhere."""
    shared = [f"run_dir={tmp_path}/run", f"policy.checkpoint.dir={tmp_path}/shared"]
    stored(str(tmp_path / "shared"), 3)
    with pytest.raises(UserError, match="holds 000003"):
        claim_checkpoints(load("scenes", [*shared, "policy.resume=never"]))
    assert newest_version(claim_checkpoints(load("scenes", shared))) == 3
    inside = load("scenes", [f"run_dir={tmp_path}/run", "policy.resume=never"])
    stored(str(tmp_path / "run" / "policy" / "checkpoints"), 4)
    claim_checkpoints(inside).clear()
    assert claim_checkpoints(inside).newest() is None


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
            await writer.start(Manifest(version, 0.0, {}), {"rank-0.pt": ray.put(np.frombuffer(b"state", np.uint8))})
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

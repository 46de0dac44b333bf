"""Stage x fault: full disk, read-only disk, backward clock, killed writer. State stays whole, and the message helps."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import ray

from conf import UserError
from pipelines.cli import main
from pipelines.common.disk_faults import explain_disk_faults, require_writable
from tests.support.faults import WRITERS

ROOT = Path(__file__).parents[2]
NAMESPACE = ["unshare", "--user", "--map-root-user", "--mount"]
"""Starts a program that may mount disks which nobody else sees. It needs no privileges."""

Outcomes = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcomes]:
    """Fault -> stage -> outcome, of one process. The faults of a disk are missing if this machine mounts none."""
    probe = [*NAMESPACE, "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    mounts = shutil.which("unshare") and not subprocess.run(probe, capture_output=True, check=False).returncode
    faults = list(EXPECTED) if mounts else ["killed", "backward clock"]
    program = [sys.executable, "-W", "ignore", "-m", "tests.support.faults", str(tmp_path_factory.mktemp("disk"))]
    command = [*(NAMESPACE if mounts else []), *program, *faults]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False, timeout=400)
    assert not result.returncode, result.stderr[-3000:]
    return json.loads(result.stdout)


EXPECTED = {
    "killed": ("killed",),  # first: it forks, which a process with threads should not
    "full": ("No space left on device, 0.0 MB are free there", "Make room on that disk"),
    "read-only": ("Read-only file system", "Make the folder writable"),
    "backward clock": (),
}


@pytest.mark.parametrize("stage", WRITERS)
@pytest.mark.parametrize("fault", EXPECTED)
def test_a_fault_leaves_whole_files_and_a_message_with_the_fix(
    fault: str, stage: str, outcomes: dict[str, Outcomes]
) -> None:
    if fault not in outcomes:
        pytest.skip("this machine lets no user mount a disk in a namespace")
    outcome = outcomes[fault][stage]
    appends = stage == "reward train: log"  # it adds a line and renames nothing
    for part in () if appends and fault == "killed" else EXPECTED[fault]:
        assert part in outcome["message"]
    if fault in ("full", "read-only"):
        assert "What is complete is kept" in outcome["message"]
        assert "then give the same command again: it continues" in outcome["message"]
    assert outcome["unchanged"] or fault == "backward clock"
    assert outcome["leftovers"] == [] and outcome["continued"]


VERBS = [
    "preferences build",
    "run",
    "demo",
    "policy train rewards.spatialscore=0 rewards.rules=1",
]


@pytest.mark.parametrize("line", VERBS)
@pytest.mark.parametrize("folder", ["/proc/nope", "{tmp}/file/run"])
def test_a_run_directory_that_cannot_be_written_is_refused_at_once(
    line: str, folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda *args, **options: pytest.fail("Ray was started"))
    folder = folder.format(tmp=tmp_path)
    assert main([*line.split(), f"run_dir={folder}"]) == 2
    message = capsys.readouterr().err
    assert f"run_dir must be a folder that can be written, got {folder}: " in message and "Traceback" not in message
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_asking_leaves_nothing_behind(tmp_path: Path) -> None:
    require_writable(tmp_path / "a" / "b")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "a").mkdir()
    require_writable(tmp_path / "a" / "b")
    assert [path.name for path in tmp_path.rglob("*")] == ["a"]
    require_writable(tmp_path / "a" / "b", keep=True)
    assert (tmp_path / "a" / "b").is_dir()


class _TaskError(Exception):
    """As Ray's: the cause is an attribute, and the text a traceback."""

    def __init__(self, cause: Exception) -> None:
        super().__init__(f"Traceback: {cause}")
        self.cause = cause


class _WorkersError(Exception):
    """As Ray Train's: one error for each worker."""

    def __init__(self, *errors: Exception) -> None:
        super().__init__("workers failed")
        self.worker_failures = dict(enumerate(errors))


FULL = "No space left on device"


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OSError(28, FULL), "/runs/a cannot be written: No space left on device"),
        (OSError(28, FULL, "/elsewhere/file"), "/elsewhere/file cannot be written: No space left on device"),
        (OSError(122, "Disk quota exceeded"), "Disk quota exceeded"),
        (_TaskError(OSError(28, FULL)), FULL),
        (_WorkersError(ValueError("other"), _TaskError(OSError(28, FULL))), FULL),
        (RuntimeError(f"PytorchStreamWriter failed: {FULL}"), FULL),
        (PermissionError(13, "Permission denied", "/runs/a/settings.yaml"), "/runs/a/settings.yaml cannot be written"),
        (OSError(5, "Input/output error", "/runs/a/x"), "Check that disk"),
        (PermissionError(13, "Permission denied", "/etc/shadow"), None),
        (FileNotFoundError(2, "No such file or directory", "/runs/a/x"), None),
        (ValueError("/runs/a is odd"), None),
    ],
)  # fmt: skip
def test_errors_of_a_disk_are_told_from_others(error: Exception, expected: str | None) -> None:
    with pytest.raises(Exception, match=r".*") as raised, explain_disk_faults(Path("/runs/a")):
        raise error
    if expected is None:
        assert raised.value is error
    else:
        assert isinstance(raised.value, UserError) and expected in str(raised.value)

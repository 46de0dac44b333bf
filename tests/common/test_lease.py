"""One driver a run directory: a second is refused, one that has ended is replaced, one that lost its lease stops."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from conf import UserError
from pipelines.common import lease as lease_module
from pipelines.common.lease import Holder, LeaseLostError, check_lease, hold_lease, read_holder

ROOT = Path(__file__).parents[2]
DRIVER = """
import sys, time
from pathlib import Path
from conf import UserError
from pipelines.common import lease
lease.RENEW_SECONDS = lease.CHECK_SECONDS = 0.1
try:
    with lease.hold_lease(Path(sys.argv[1]), take_over=sys.argv[2] == "True", log=lambda line: print(line, flush=True)):
        print("works", flush=True)
        time.sleep(60)
except UserError as error:
    sys.exit(f"{type(error).__name__}: {error}")
"""


@contextmanager
def driver(file: Path, take_over: bool = False) -> Generator[subprocess.Popen[str]]:
    """A driver in a process of its own, which works until it is stopped."""
    command = [sys.executable, "-c", DRIVER, str(file), str(take_over)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT) as process:
        try:
            yield process
        finally:
            process.kill()


def works(process: subprocess.Popen[str]) -> list[str]:
    """Waits until a driver works. Returns what it has said before."""
    assert process.stdout
    lines = list(iter(lambda: process.stdout.readline().strip(), "works"))  # type: ignore[union-attr]
    assert "" not in lines, process.communicate()
    return lines


def write_holder(file: Path, **changes: object) -> None:
    """A lease of another driver."""
    file.write_text(json.dumps({**vars(Holder.me()), **changes}))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "driver.lease"


def test_blocks_nest_and_the_lease_ends_with_the_outer_one(file: Path) -> None:
    with hold_lease(file) as outer, hold_lease(file) as inner:
        assert outer is inner and read_holder(file) == outer.holder
    assert not file.exists()
    with pytest.raises(ZeroDivisionError), hold_lease(file):
        raise ZeroDivisionError
    assert not file.exists() and not list(file.parent.iterdir())


def test_a_second_driver_is_refused(file: Path) -> None:
    with driver(file) as first:
        works(first)
        with pytest.raises(UserError) as refused, hold_lease(file):
            pass
        for part in (f"process {first.pid} on ", "renewed 0 s ago", "spatialt2i status", "take_over=true"):
            assert part in str(refused.value)
        assert first.poll() is None and read_holder(file) is not None


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_driver_is_replaced_at_once(file: Path, end: signal.Signals) -> None:
    with driver(file) as first:
        works(first)
        first.send_signal(end)
        first.wait()
    assert file.exists()
    lines: list[str] = []
    started = time.monotonic()
    with hold_lease(file, log=lines.append):
        assert lines == [
            f"taking over {file.parent} from process {first.pid} on {os.uname().nodename}, which has ended"
        ]
    assert time.monotonic() - started < 5


def test_a_driver_stops_when_another_takes_over(file: Path) -> None:
    """The first one is interrupted in the middle of its work, and the second one waits for that."""
    with driver(file) as first:
        works(first)
        with driver(file, take_over=True) as second:
            lines = works(second)
            first.wait(timeout=1)  # its threads may still be ending; it would work for a minute
            _, error = first.communicate()
            assert first.returncode == 1 and error.startswith("LeaseLostError: ")
            assert f"was taken over by process {second.pid}" in error and "writes nothing more" in error
            assert "is asked to stop" in lines[0]
            holder = read_holder(file)
            assert holder and holder.pid == second.pid, "the first driver must not remove the lease of the second"


def test_a_lost_lease_is_found_before_a_write(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease_module, "CHECK_SECONDS", 60.0)  # the thread has no time to find out
    with hold_lease(file):
        check_lease(file)
        write_holder(file, token="other", host="elsewhere", pid=7, job="raysubmit_1")
        with pytest.raises(LeaseLostError, match=r"taken over by process 7 on elsewhere, job raysubmit_1"):
            check_lease(file)
    assert file.exists()
    check_lease(file)  # without a lease nothing is checked


def test_a_lease_that_was_deleted_is_written_again(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease_module, "CHECK_SECONDS", 0.02)
    with hold_lease(file):
        file.unlink()
        deadline = time.monotonic() + 10
        while not file.exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        assert file.exists()


@pytest.mark.parametrize("clock", [0.0, 1e12], ids=["backward", "forward"])
def test_a_driver_elsewhere_that_renews_is_alive(file: Path, clock: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the clocks say: the time stamp of the lease changes while the second driver looks at it."""
    monkeypatch.setattr(lease_module, "CHECK_SECONDS", 0.02)
    monkeypatch.setattr(lease_module.time, "sleep", lambda seconds: os.utime(file, (seconds, seconds)))
    monkeypatch.setattr(lease_module.time, "time", lambda: clock)
    write_holder(file, machine="00000000", host="elsewhere", pid=7)
    lines: list[str] = []
    with pytest.raises(UserError, match="process 7 on elsewhere"), hold_lease(file, log=lines.append):
        pass
    assert "waiting up to 60 s to see if it lives" in lines[0]


@pytest.mark.parametrize("clock", [0.0, 1e12], ids=["backward", "forward"])
def test_a_driver_elsewhere_that_does_not_renew_is_replaced(
    file: Path, clock: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease_module, "CHECK_SECONDS", 0.02)
    monkeypatch.setattr(lease_module, "STALE_SECONDS", 0.2)
    monkeypatch.setattr(lease_module.time, "time", lambda: clock)
    write_holder(file, machine="00000000", host="elsewhere", pid=7)
    started, lines = time.monotonic(), list[str]()
    with hold_lease(file, log=lines.append) as lease:
        assert time.monotonic() - started >= 0.2 and "elsewhere, which has ended" in lines[-1]
        assert read_holder(file) == lease.holder


def test_the_lease_is_renewed_without_writing_to_the_disk(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk must not cost a driver its run."""
    monkeypatch.setattr(lease_module, "CHECK_SECONDS", 0.02)
    monkeypatch.setattr(lease_module, "RENEW_SECONDS", 0.02)
    with hold_lease(file):
        inode, stamp = file.stat().st_ino, file.stat().st_mtime_ns
        deadline = time.monotonic() + 10
        while file.stat().st_mtime_ns == stamp and time.monotonic() < deadline:
            time.sleep(0.02)
        assert file.stat().st_mtime_ns != stamp and file.stat().st_ino == inode


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"\xff", b'{"token": 5}'])
def test_a_damaged_lease_is_no_lease(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    with hold_lease(file) as lease:
        assert read_holder(file) == lease.holder


def test_two_drivers_that_start_at_once_do_not_both_work(file: Path) -> None:
    with driver(file) as one, driver(file) as two:
        deadline = time.monotonic() + 60
        while (one.poll() is None) == (two.poll() is None) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert sorted(process.poll() is None for process in (one, two)) == [False, True]

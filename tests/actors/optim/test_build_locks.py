"""Build locks of killed processes."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from torch.utils.cpp_extension import _get_build_directory
from torch.utils.file_baton import FileBaton

from actors.optim import build_locks
from actors.optim.build_locks import (
    ABANDONED_AFTER_S,
    STALE_AFTER_S,
    remove_stale_build_locks,
    removing_stale_build_locks,
)


def make_lock(cache: Path, extension: str, age: float) -> Path:
    folder = cache / "py311_cpu" / extension
    folder.mkdir(parents=True)
    lock = folder / "lock"
    lock.touch()
    os.utime(lock, (time.time() - age, time.time() - age))
    return lock


def test_a_lock_that_no_process_has_open_is_removed_sooner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held = make_lock(tmp_path, "deepspeed_shm_comm", ABANDONED_AFTER_S + 60)
    abandoned = make_lock(tmp_path, "deepspeed_ccl_comm", ABANDONED_AFTER_S + 60)
    with monkeypatch.context() as patch, held.open():
        patch.setattr(build_locks, "_is_on_network", lambda path: True)  # its holder may be on another machine
        assert remove_stale_build_locks(tmp_path) == []
    with held.open():
        assert remove_stale_build_locks(tmp_path) == [abandoned]
    assert remove_stale_build_locks(tmp_path) == [held]


def test_a_process_that_waits_for_a_lock_goes_on_once_it_is_stale(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process that compiled was killed while the others waited."""
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    monkeypatch.setattr(build_locks, "LOOK_S", 0.05)
    monkeypatch.setattr(build_locks, "ABANDONED_AFTER_S", 0.5)
    lock = make_lock(tmp_path, "deepspeed_shm_comm", 0)
    with removing_stale_build_locks():
        FileBaton(str(lock), wait_seconds=0.05).wait()
    assert not lock.exists()


def test_only_old_locks_of_deepspeed_are_removed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    old = make_lock(tmp_path, "deepspeed_shm_comm", STALE_AFTER_S + 60)
    young = make_lock(tmp_path, "deepspeed_ccl_comm", 5)
    foreign = make_lock(tmp_path, "flash_attn", STALE_AFTER_S + 60)
    assert remove_stale_build_locks(tmp_path) == [old]
    assert not old.exists() and young.exists() and foreign.exists()
    assert str(old) in caplog.text
    assert remove_stale_build_locks(tmp_path / "absent") == []


def test_the_folder_that_torch_builds_in_is_searched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for variable in ("TORCH_EXTENSIONS_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv("TORCH_EXTENSIONS_DIR", raising=False)
        monkeypatch.setenv(variable, str(tmp_path / variable))
        lock = Path(_get_build_directory("deepspeed_shm_comm", verbose=False)) / "lock"
        lock.touch()
        os.utime(lock, (0, 0))
        assert remove_stale_build_locks() == [lock]

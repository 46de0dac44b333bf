"""Build locks of killed processes."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from torch.utils.cpp_extension import _get_build_directory

from actors.optim.build_locks import STALE_AFTER_S, remove_stale_build_locks


def make_lock(cache: Path, extension: str, age: float) -> Path:
    folder = cache / "py311_cpu" / extension
    folder.mkdir(parents=True)
    lock = folder / "lock"
    lock.touch()
    os.utime(lock, (time.time() - age, time.time() - age))
    return lock


def test_only_old_locks_of_deepspeed_are_removed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    old = make_lock(tmp_path, "deepspeed_shm_comm", STALE_AFTER_S + 60)
    young = make_lock(tmp_path, "deepspeed_ccl_comm", 60)
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

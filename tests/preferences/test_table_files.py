"""Digests of a build's files, which are computed again only if a file may have changed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pipelines.preferences.dataset import table_files
from pipelines.preferences.dataset.table_files import TableFile, describe, is_damaged


def test_an_unchanged_file_is_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "train-00000.parquet"
    path.write_bytes(b"rows")
    described = describe(tmp_path, path.name, {})
    earlier = TableFile(path.name, described.sha256)
    assert not is_damaged(tmp_path, earlier), "a manifest of an earlier version has digests only"

    def fail(path: Path) -> str:
        raise AssertionError(f"{path} is read")

    with monkeypatch.context() as patched:
        patched.setattr(table_files, "digest_of_file", fail)
        assert describe(tmp_path, path.name, {path.name: described}) == described
        assert not is_damaged(tmp_path, described)


def test_a_changed_or_missing_file_is_damaged_and_a_copied_one_is_not(tmp_path: Path) -> None:
    path = tmp_path / "train-00000.parquet"
    path.write_bytes(b"rows")
    described = describe(tmp_path, path.name, {})
    os.utime(path, ns=(1, 1))
    assert not is_damaged(tmp_path, described), "another time alone is no damage"
    path.write_bytes(b"sows")
    assert is_damaged(tmp_path, described)
    path.unlink()
    assert is_damaged(tmp_path, described)

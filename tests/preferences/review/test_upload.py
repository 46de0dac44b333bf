"""A published version at a URI: copied as a whole, never replaced, and read by stage 2."""

from __future__ import annotations

from pathlib import Path

import pytest

from conf import Settings, UserError, load
from pipelines.preferences.dataset import upload as upload_module
from pipelines.preferences.dataset.publish import publish
from pipelines.preferences.dataset.verify import CHECKSUMS, verify
from pipelines.reward.locations import pair_source
from pipelines.reward.row_groups import find_rows


def _settings(run_dir: Path, out: str, *overrides: str) -> Settings:
    return load("scenes", [f"run_dir={run_dir}", f"publish.out={out}", "publish.exports=false", *overrides])


def test_a_version_is_copied_to_a_uri_and_stage_2_reads_it_there(
    run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, there = _settings(run_dir, f"file://{tmp_path}/store"), tmp_path / "store" / "1.0.0"
    copy, broken = upload_module._copy, ["data"]  # pyright: ignore[reportPrivateUsage]

    def break_once(source: Path, target: str) -> None:
        copy(source, target)
        if broken:
            raise OSError(broken.pop())

    monkeypatch.setattr(upload_module, "_copy", break_once)
    with pytest.raises(UserError, match=r"publish\.out must be .*start the command again"):
        publish(settings)
    assert any(there.rglob("*")) and not (there / CHECKSUMS).exists(), "an interrupted copy is no version"
    published = publish(settings)
    assert published.pairs == 40 and f"uploaded to file://{there}" in str(published)
    names = {path.relative_to(published.folder) for path in published.folder.rglob("*") if path.is_file()}
    assert names == {path.relative_to(there) for path in there.rglob("*") if path.is_file()}
    assert all((there / name).read_bytes() == (published.folder / name).read_bytes() for name in names)
    assert publish(settings).address == f"file://{there}", "a copy that is complete is left alone"

    verify(f"file://{there}", lambda line: None)
    source = pair_source(load("scenes", [f"run_dir={tmp_path}/other", f"reward.pairs=[file://{there}]"]))
    source.require_verified()
    assert sum(len(place.rows) for place in find_rows(source, ["train", "test"])) == 40


def test_a_uri_that_is_taken_or_cannot_be_used_is_refused_before_anything_is_written(
    run_dir: Path, tmp_path: Path
) -> None:
    (tmp_path / "1.0.0").mkdir()
    (tmp_path / "1.0.0" / CHECKSUMS).write_text("another version\n")
    with pytest.raises(UserError, match=r"is published already: raise publish\.version"):
        publish(_settings(run_dir, f"file://{tmp_path}"))
    with pytest.raises(UserError, match=r"publish\.out must be a folder or a URI.*ftp"):
        publish(_settings(run_dir, "ftp://host/pairs"))
    assert not (run_dir / "published").exists()
    publish(_settings(run_dir, f"file://{tmp_path}", "publish.version=1.0.1"))
    (tmp_path / "1.0.1" / CHECKSUMS).write_text("another version\n")
    with pytest.raises(UserError, match="holds another version"):
        publish(_settings(run_dir, f"file://{tmp_path}", "publish.version=1.0.1"))

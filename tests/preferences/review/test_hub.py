"""The upload of a published version to the Hugging Face Hub."""

from __future__ import annotations

from pathlib import Path

import pytest

from conf import SettingsError, UserError, load
from pipelines.preferences.dataset.publish import publish
from tests.support.hub_server import serving_hub


def test_a_version_is_uploaded_and_tagged_and_replaces_the_files_of_an_earlier_one(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    words = [f"run_dir={run_dir}", "publish.hub=me/pairs", "publish.exports=false"]
    with serving_hub() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.address)
        hub.files = {"data/train-00007.parquet": b"of version 0.9.0", "notes.md": b"theirs"}
        published = publish(load("scenes", words))
        names = {str(path.relative_to(published.folder)) for path in published.folder.rglob("*") if path.is_file()}
        assert set(hub.files) == names | {"notes.md"}
        assert all((published.folder / name).read_bytes() == hub.files[name] for name in names)
        assert hub.tags == ["1.0.0"] and hub.private is True
        assert f"uploaded to {hub.address}/datasets/me/pairs" in str(published)
        hub.files.clear()
        assert publish(load("scenes", words)).pairs == 40 and set(hub.files) == names, "an upload can be repeated"
        hub.refuse = True
        with pytest.raises(UserError, match=r"cannot be uploaded to me/pairs, got: .*401.*hf auth login"):
            publish(load("scenes", words))
    with pytest.raises(SettingsError, match=r"publish\.hub must read OWNER/NAME"):
        load("scenes", ["publish.hub=pairs"])

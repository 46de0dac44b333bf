"""A run directory may have any name that the file system takes."""

from __future__ import annotations

from pathlib import Path

import pytest

from conf import SettingsError, load
from conf.command import override_of
from pipelines.cli import main, parse_settings
from pipelines.common.paths import run_paths
from pipelines.common.run_lookup import known_runs, record_settings
from pipelines.operations.stage_cache import STEP_STAGES, StageRecord, read_record, step_record, write_record

NAMES = [
    "a ü 日本 😀",
    "'single' \"double\" `back`",
    "100% #1 ?x=1&y=2 %20",
    "a=b",
    "-x",
    "~",
    "two\nlines",
    "$HOME ${b} \\${c} {d} [e] *",
    "a:b, c; (d) | <e> ! ^ @ +",
]


@pytest.mark.parametrize("name", NAMES)
def test_a_run_of_any_name_is_recorded_found_and_shown(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = f"runs/{name}"
    settings = load("scenes", [override_of("run_dir", folder), "preferences.pairs=77"])
    assert settings.run_dir == folder
    record_settings(settings, "preferences")
    for step in STEP_STAGES:
        write_record(step_record(run_paths(settings), step), StageRecord("digest", "summary", 66.0))
        assert read_record(step_record(run_paths(settings), step))
    assert [str(run) for run in known_runs()] == [folder]
    for words in (["evaluate"], ["evaluate", override_of("run_dir", folder)], ["evaluate", folder]):
        found = parse_settings(words)[1]
        assert (found.run_dir, found.preferences.pairs) == (folder, 77)
    assert main(["status", "status.once=true", "status.address=http://127.0.0.1:9"]) == 0
    out = capsys.readouterr().out
    assert "preferences 66 s" in out
    assert out.splitlines()[0] == f"run: {folder if folder.isprintable() else repr(folder)}"


def test_a_name_that_is_no_text_is_refused() -> None:
    with pytest.raises(SettingsError, match="run_dir must be a name of UTF-8 text"):
        load("scenes", [override_of("run_dir", "runs/\udcff")])


def test_a_tilde_at_the_start_of_a_path_is_the_user_s_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    settings = load("scenes", ["run_dir=~/runs/x", "policy.prompts=~/p.jsonl", "serving.model=a~b"])
    assert (settings.run_dir, settings.policy.prompts) == (f"{tmp_path}/runs/x", f"{tmp_path}/p.jsonl")
    assert settings.serving.model == "a~b"

"""`benchmark fetch` from a git repository on this machine: pinned commits, only what is needed, honest messages."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from conf import SettingsError, UserError, load
from pipelines.benchmark import fetch as module
from pipelines.benchmark.fetch import fetch, fetch_source, read_source
from pipelines.benchmark.items import Source

NAME = "owner/bench"


def git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(folder), "-c", "user.name=t", "-c", "user.email=t@t", *arguments],
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


@dataclass(frozen=True)
class Published:
    """A repository with two commits, served from a folder."""

    mirror: str
    first: str
    second: str


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Published:
    root = tmp_path_factory.mktemp("mirror")
    repository = root / NAME
    (repository / "data").mkdir(parents=True)
    git(repository, "init", "--quiet")
    git(repository, "config", "uploadpack.allowAnySHA1InWant", "true")
    (repository / "data" / "prompts.jsonl").write_text("first\n")
    (repository / "LICENSE").write_text("free\n")
    (repository / "weights.bin").write_text("not needed\n")
    commits = []
    for text in ("first\n", "second\n"):
        (repository / "data" / "prompts.jsonl").write_text(text)
        git(repository, "add", ".")
        git(repository, "commit", "--quiet", "-m", text)
        commits.append(git(repository, "rev-parse", "HEAD"))
    return Published(root.as_uri(), *commits)


def source_of(commit: str, *paths: str) -> Source:
    return Source(NAME, commit, paths or ("data/", "LICENSE"), "none named", "ask the authors")


def test_the_pinned_commit_s_files_are_saved_and_nothing_else(published: Published, tmp_path: Path) -> None:
    target = tmp_path / "bench"
    fetch_source(source_of(published.first), target, published.mirror)
    assert (target / "data" / "prompts.jsonl").read_text() == "first\n"
    assert (target / "LICENSE").is_file() and not (target / "weights.bin").exists() and not (target / ".git").exists()
    assert read_source(target) == published.first
    fetch_source(source_of(published.second), target, published.mirror)
    assert (target / "data" / "prompts.jsonl").read_text() == "second\n"


def test_a_commit_or_repository_that_is_not_there_is_one_message_and_leaves_nothing(
    published: Published, tmp_path: Path
) -> None:
    for source in (source_of("0" * 40), Source("owner/none", published.first, ("data/",), "MIT")):
        with pytest.raises(UserError, match=r"git fetch failed \(.+\): check the network and benchmark.mirror"):
            fetch_source(source, tmp_path / "bench", published.mirror)
    assert not (tmp_path / "bench").exists()
    with pytest.raises(UserError, match="git checkout failed"):
        fetch_source(source_of(published.first, "no/such/file"), tmp_path / "bench", published.mirror)


def test_files_of_somebody_else_are_not_replaced(published: Published, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"notes\.txt"):
        fetch_source(source_of(published.first), tmp_path, published.mirror)


def test_licences_and_problems_are_shown_and_a_second_call_fetches_nothing(
    published: Published, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(module, "find_source", lambda _: source_of(published.first))
    settings = load(
        "scenes",
        [f"benchmark.data={tmp_path / 'data'}", "benchmark.names=[tiif]", f"benchmark.mirror={published.mirror}"],
    )
    lines: list[str] = []
    fetch(settings, lines.append)
    fetch(settings, lines.append)
    assert "licence: none named" in lines[0] and lines[-1].startswith("tiif: already in ")
    shown = capsys.readouterr()
    assert "ask the authors" in shown.out + shown.err and "tiif: " in shown.out + shown.err
    with pytest.raises(SettingsError, match=r"benchmark\.data must name the folder to fill"):
        fetch(load("scenes"), lines.append)

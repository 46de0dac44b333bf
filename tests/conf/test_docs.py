"""Every command that the documentation shows is one that the program understands."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest
from ray.scripts.scripts import cli as ray_cli

from conf import load
from conf.layers import is_preset
from pipelines.cli import VERBS, parse_settings
from tests.support.runs import make_run

ROOT = Path(__file__).parents[2]
COMMANDS = re.compile(r"spatialt2i ((?:[A-Za-z_0-9./=:,\[\]-]+ ?)+)")


def shown() -> list[str]:
    """Words after `spatialt2i` in code blocks and inline code of the README and the guides, and in the manifests."""
    files = [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), ROOT / "cluster" / "rayjob.yaml"]
    texts = [re.sub(r"\\\n *", "", file.read_text()) for file in files]  # a command may span several lines
    found = {
        match[1].strip() for text in texts for match in COMMANDS.finditer(re.sub(r" {3,}.*", "", text, flags=re.M))
    }
    return sorted(command for command in found if command.split()[0] in VERBS and " --" not in command)


def test_the_documentation_shows_commands_of_every_stage() -> None:
    assert {command.split()[0] for command in shown()} >= {
        "preferences",
        "reward",
        "policy",
        "evaluate",
        "demo",
        "submit",
    }


@pytest.mark.parametrize("command", shown())
def test_a_shown_command_is_understood_after_the_demo(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the folder of a finished demo. A run that the command names exists, too."""
    monkeypatch.chdir(tmp_path)
    make_run(tmp_path / "runs" / "demo", overrides=["policy.seed=3"])
    words = shlex.split(command.replace("/shared/", f"{tmp_path}/shared/"))
    words = [word for word in words if not word.endswith("://")]  # the rest of an address is a placeholder
    named = [word.removeprefix("run_dir=") for word in words if word.startswith("run_dir=")]
    named += [word for word in words if word.startswith(("runs/", f"{tmp_path}/shared/"))]
    for folder in named:
        make_run(tmp_path / folder, overrides=["policy.seed=3"])
    action, settings = parse_settings(words)
    if action.run == "continues" and not named and not any(is_preset(word) for word in words):
        assert settings.run_dir == "runs/demo"
        assert settings.policy.seed == (3 if "policy.seed=1" not in words else 1)


def blocks() -> list[tuple[str, str]]:
    """File name and text of every block of shell commands in the README and the guides."""
    files = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    fence = re.compile(r"^```bash\n(.*?)^```", re.M | re.S)
    return [(file.name, text) for file in files for text in fence.findall(file.read_text())]


@pytest.mark.parametrize(("file", "text"), blocks())
def test_a_block_of_commands_is_shell_and_calls_what_exists(file: str, text: str) -> None:
    parsed = subprocess.run(["bash", "-n"], input=text, capture_output=True, text=True, check=False)
    assert parsed.returncode == 0, parsed.stderr
    lines = [shlex.split(line, comments=True) for line in text.replace("\\\n", " ").splitlines()]
    for words in filter(None, lines):
        if words[0] == "ray":
            assert words[1] in ray_cli.commands, f"{file}: ray has no command {words[1]}"
        if words[:3] == ["python", "-m", "cluster.render"]:
            load(words[3] if len(words) > 3 else "flux_dev")


def test_files_that_the_guides_name_exist() -> None:
    for file in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        named = set(re.findall(r"\b(?:actors|cluster|conf|docs|pipelines|tests)/[\w/]+\.\w+\b", file.read_text()))
        assert [name for name in named if not (ROOT / name).exists()] == [], file.name


def test_the_make_targets_that_are_named_exist() -> None:
    texts = [file.read_text() for file in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]]
    named = {name for text in texts for name in re.findall(r"(?:`|^)make (\w+)", text, re.M)}
    assert named <= set(re.findall(r"^(\w[\w-]*):", (ROOT / "Makefile").read_text(), flags=re.M))

"""Every command that the documentation shows is one that the program understands."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from pipelines.cli import VERBS, understand

ROOT = Path(__file__).parents[2]
COMMANDS = re.compile(r"spatialt2i ((?:[a-z_0-9./=:,\[\]]+ ?)+)")


def shown() -> list[str]:
    """Words after `spatialt2i` in code blocks and inline code of the README and the guides, and in the manifests."""
    files = [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), ROOT / "cluster" / "rayjob.yaml"]
    texts = [file.read_text() for file in files]
    found = {
        match[1].strip() for text in texts for match in COMMANDS.finditer(re.sub(r" {3,}.*", "", text, flags=re.M))
    }
    return sorted(command for command in found if command.split()[0] in VERBS)


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
def test_a_shown_command_is_understood(command: str) -> None:
    understand(shlex.split(command))


def test_the_make_targets_of_the_readme_exist() -> None:
    named = set(re.findall(r"`?make (\w+)", (ROOT / "README.md").read_text()))
    assert named <= set(re.findall(r"^(\w[\w-]*):", (ROOT / "Makefile").read_text(), flags=re.M))

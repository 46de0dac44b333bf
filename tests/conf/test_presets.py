"""Presets: every value is a difference from what it overrides, or is marked as the paper's or as a choice."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from conf import presets
from conf.catalog import catalog
from conf.layers import PRESET_DIR, Layer, preset_layers

MARK = re.compile(r"# (paper|choice)\b")
NAME_KEY = "preset"


def marked_keys(path: Path) -> set[str]:
    """Dotted keys of a preset file whose line, or whose list's first line, has a mark. Presets use plain YAML only."""
    found: set[str] = set()
    names: list[tuple[int, str]] = []
    for line in path.read_text().splitlines():
        match = re.match(r"( *)([a-z_]+):", line)
        if match:
            names = [(indent, name) for indent, name in names if indent < len(match[1])]
            names.append((len(match[1]), match[2]))
            if MARK.search(line):
                found.add(".".join(name for _, name in names))
    return found


def top_layer(preset: str) -> Layer:
    return preset_layers(preset)[-1]


@pytest.mark.parametrize("preset", presets())
def test_every_value_is_marked_as_the_papers_or_as_a_choice(preset: str) -> None:
    marked = marked_keys(PRESET_DIR / f"{preset}.yaml")
    assert set(top_layer(preset).values) - {NAME_KEY} - marked == set()


@pytest.mark.parametrize("preset", presets())
def test_every_value_differs_from_the_value_it_overrides_unless_it_is_marked(preset: str) -> None:
    below = {key: setting.default for key, setting in catalog().items()}
    for layer in preset_layers(preset)[:-1]:
        below |= layer.values
    marked = marked_keys(PRESET_DIR / f"{preset}.yaml")
    values = {
        key: tuple(value) if isinstance(value, list) else value for key, value in top_layer(preset).values.items()
    }
    same = {key for key, value in values.items() if key != NAME_KEY and value == below[key]}
    assert same - marked == set()


@pytest.mark.parametrize("preset", [name for name in presets() if len(preset_layers(name)) > 1])
def test_a_preset_with_a_base_repeats_nothing_of_it(preset: str) -> None:
    """A base's values are already marked there, so a mark is no reason to repeat one."""
    *bases, top = preset_layers(preset)
    below = {key: value for layer in bases for key, value in layer.values.items()}
    assert [key for key, value in top.values.items() if below.get(key, ...) == value] == []

"""Presets and command-line overrides as layers of `key -> value`, each layer with the name of its source."""

from __future__ import annotations

import difflib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from conf.catalog import REWARDS, Setting, catalog, did_you_mean, reward_fields, sections
from conf.errors import SettingsError
from conf.reward_entries import read_rewards
from conf.rules import suggestion
from conf.yaml_file import check_interpolations, one_line, parse_value, read_yaml

PRESET_DIR = Path(__file__).parent / "presets"
COMMAND_LINE = "command line"
YAML_ENDINGS = (".yaml", ".yml")


@dataclass(frozen=True)
class Layer:
    """Values from one source."""

    source: str
    """"command line", or the preset with its file."""
    values: Mapping[str, Any]
    """Dotted key of a setting -> value. For a mapping setting the value holds the given entries only."""


def presets() -> list[str]:
    """Names of the shipped presets."""
    return sorted(path.stem for path in PRESET_DIR.glob("*.yaml"))


def is_preset(word: str) -> bool:
    """Whether `word` is the name of a shipped preset or looks like the path of a YAML file."""
    return word in presets() or word.endswith(YAML_ENDINGS)


RETIRED: Mapping[str, tuple[object, str]] = {
    "publish.hub": ("", "push.repo"),
    "publish.hub_private": (True, "push.private"),
}
"""Settings of earlier versions -> their default, and what replaces them. Runs have recorded the defaults, which count
as absent, so that the runs go on."""


def preset_layers(preset: str, unknown: list[str] | None = None) -> list[Layer]:
    """The layers of a preset, those of its bases first. Raises SettingsError if one cannot be read.

    Keys that are no setting are refused; if a list `unknown` is given, they are left out and added to it.
    """
    layers: list[Layer] = []
    name, folder, chain, named_in = preset, Path(), list[Path](), ""
    while name:
        path = _find(name, folder, chain, named_in)
        chain.append(path.resolve())
        source = f"preset {name}" + (f" (base of {preset})" if named_in else "")
        values = read_yaml(path, source)
        values.setdefault("preset", path.stem)
        base = values.pop("base", None)
        if base is not None and not isinstance(base, str):
            raise SettingsError(f"{source}: base must be the name of a preset or a YAML file, got {base!r}")
        layers.insert(0, Layer(source, dict(_flatten(values, source, unknown))))
        name, folder, named_in = base or "", path.parent, f"{source}: base: "
    return layers


def _find(name: str, folder: Path, chain: Sequence[Path], named_in: str) -> Path:
    """The file of a preset. Raises SettingsError if there is none, or if it is already in the chain of bases.

    `named_in` starts the message: the preset whose base is looked for, or "" for the first preset.
    """
    is_file = name.endswith(YAML_ENDINGS)
    path = folder / name if is_file else PRESET_DIR / f"{name}.yaml"
    if not is_file and name not in presets():
        near = suggestion(name, presets())
        raise SettingsError(f"{named_in}no preset {name!r}{near} (available: {', '.join(presets())}, or a YAML file)")
    if not os.path.exists(path):  # which is False for a name that no file can have, too
        raise SettingsError(
            f"{named_in}no preset file {str(path)!r}: name a YAML file that exists, or one of {', '.join(presets())}"
        )
    if path.resolve() in chain:
        raise SettingsError(f"{named_in}the bases form a cycle: {' -> '.join(file.name for file in [*chain, path])}")
    return path


def _flatten(
    values: Mapping[Any, Any], source: str, unknown: list[str] | None, prefix: str = ""
) -> Iterator[tuple[str, Any]]:
    """Nested values -> (key of a setting, value). For keys that are no setting see `preset_layers`."""
    for name, value in values.items():
        key = f"{prefix}{name}"
        if key == REWARDS:
            yield key, read_rewards(value, source)
        elif key in catalog():
            yield key, value
        elif key in sections():
            if value is None:  # a section whose lines are all comments
                continue
            if not isinstance(value, Mapping):
                raise SettingsError(f"{source}: {_not_a_section_value(key, value)}")
            yield from _flatten(cast("Mapping[Any, Any]", value), source, unknown, f"{key}.")
        elif key in RETIRED and value == RETIRED[key][0]:
            continue
        elif unknown is not None:
            unknown.append(key)
        else:
            near = _similar_section(key) if isinstance(value, Mapping) else ""
            raise SettingsError(f"{source}: " + (f"no section {key!r}{near}" if near else _unknown(key)))


def _similar_section(key: str) -> str:
    """': did you mean SECTION?' for a section of a similar name, beside `key` or else anywhere; '' if there is none."""
    parent, _, last = key.rpartition(".")
    beside = [name for name in sections() if name.rpartition(".")[0] == parent]
    for names in (beside, list(sections())):
        by_last = {name.rpartition(".")[2]: name for name in names}
        if near := difflib.get_close_matches(last, by_last, n=1, cutoff=0.75):
            return f": did you mean {by_last[near[0]]}?"
    return ""


def _unknown(key: str) -> str:
    if key in RETIRED:
        return f"no setting {key!r}: did you mean {RETIRED[key][1]}?"
    return f"no setting {key!r}{did_you_mean(key) or suggestion(key, list(sections()))}"


def _not_a_section_value(key: str, value: object) -> str:
    example = next(name for name in catalog() if name.startswith(f"{key}."))
    return f"{key} is a section, got {value!r}: set a key inside it, e.g. {example}"


FREE_TEXTS = ("sample.text", "reward.pairs")
"""Lists of texts in which a value that is no list is one text, with its spaces, commas and colons."""
_LIST = re.compile(r"\[.*\]", re.DOTALL)


def override_layer(overrides: Sequence[str], source: str = COMMAND_LINE) -> Layer:
    """`key=value` words as a layer. Later words win. Raises SettingsError for other words and for unknown keys."""
    values: dict[str, Any] = {}
    for item in overrides:
        key, equals, text = item.partition("=")
        if not equals or not key.strip(".") or key.endswith("."):
            raise SettingsError(f"{source}: expected section.key=value, got {item!r}")
        setting, rest = _setting_of(key)
        if setting is None:
            rule = _not_a_section_value(key, text) if key in sections() else _unknown(key)
            raise SettingsError(f"{source}: {rule}")
        value = _parse(_setting_inside(setting, rest), rest, text, source)
        check_interpolations(value, f"{source}: {key}")
        if rest:
            entry = _entry(setting, rest, value)
            entry = read_rewards(entry, source) if setting.key == REWARDS else entry
            value = OmegaConf.to_container(OmegaConf.merge(values.get(setting.key, {}), entry))
        elif setting.key == REWARDS:
            value = read_rewards(value, source)
        values[setting.key] = value
    return Layer(source, values)


def _setting_of(key: str) -> tuple[Setting | None, str]:
    """The setting that a key names, and the rest of the key if the setting is a mapping."""
    if key in catalog():
        return catalog()[key], ""
    for setting in catalog().values():
        if setting.is_mapping and key.startswith(f"{setting.key}.") and len(key) > len(setting.key) + 1:
            return setting, key[len(setting.key) + 1 :]
    return None, ""


def _setting_inside(setting: Setting, rest: str) -> Setting:
    """The setting of a reward that `rest` names, e.g. "mine.path"; else `setting`."""
    field = rest.partition(".")[2] if setting.key == REWARDS else ""
    return replace(reward_fields()[field], key=REWARDS) if field in reward_fields() else setting


def _entry(setting: Setting, rest: str, value: object) -> dict[str, Any]:
    """One entry of a mapping. Only free-form mappings nest; elsewhere dots belong to the key ("HPSv2.1")."""
    names = rest.split(".") if setting.key == REWARDS or setting.type_name.endswith(" Any") else [rest]
    for name in reversed(names):
        value = {name: value}
    return cast("dict[str, Any]", value)


def _parse(setting: Setting, rest: str, text: str, source: str) -> Any:
    """The value of an override. Text settings take the text as it is, unless it is quoted; others are read as YAML."""
    if setting.type is str and text[:1] not in ("'", '"'):
        return text
    if setting.key in FREE_TEXTS and setting.is_list and not _LIST.fullmatch(text):
        return [_parse(replace(setting, type=str), rest, text, source)] if text else []
    with suppress(ValueError, RecursionError):
        if text.startswith(('"', '["')):  # JSON, in which every character of a word can be written
            return json.loads(text)
    try:
        return parse_value(text)
    except (YAMLError, OmegaConfBaseException, ValueError, RecursionError) as error:
        name = f"{setting.key}.{rest}" if rest else setting.key
        raise SettingsError(f"{source}: {name}: cannot read {text!r:.200}: {one_line(error)}") from error

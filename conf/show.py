"""`spatialt2i config`: prints the settings in force with their sources, or what the settings mean."""

from __future__ import annotations

import json
import shutil
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, cast

import yaml

from conf.catalog import REWARDS, Setting, catalog, reward_fields, sections, settings_of, similar
from conf.errors import SettingsError
from conf.layers import presets
from conf.load import Resolved
from conf.rewards import Rewards, RewardTerm
from conf.rules import Section, suggestion
from conf.settings import Settings

NO_SECTION = ""
"""Stands for the settings that belong to no section."""

_SOURCE_COLUMN = 64


def show(resolved: Resolved) -> None:
    """Prints the settings in force as YAML; a comment on each line says where the value comes from."""
    print("\n".join(resolved_lines(resolved, _known_section(resolved.settings.config.only))))


def describe(resolved: Resolved) -> None:
    """Prints what the settings mean: all, or those of one section.

    Raises SettingsError if a preset or a value is given, because the defaults are shown, whatever is in force.
    """
    for key, source in resolved.sources.items():
        if key not in ("preset", "config.only") and source != "default":
            raise SettingsError(
                f"config describe shows the default of each setting and takes no values, got {key} ({source}): leave "
                "it out, or use config show"
            )
    only = _known_section(resolved.settings.config.only)
    print(settings_help([only] if only else [name for name in sections() if "." not in name] + [NO_SECTION]))


def resolved_lines(resolved: Resolved, only: str = "") -> list[str]:
    """YAML lines of the settings (or of the section `only`), each value with its source as a comment.

    The lines form a preset that loads to equal settings.
    """
    return list(_lines(resolved, resolved.settings, "", only))


def _lines(resolved: Resolved, part: Section, prefix: str, only: str) -> Iterator[str]:
    indent = "  " * prefix.count(".")
    for name, value in vars(part).items():
        key = f"{prefix}{name}"
        if only and not (key == only or key.startswith(f"{only}.") or only.startswith(f"{key}.")):
            continue
        if isinstance(value, Section):
            yield f"{indent}{name}:"
            yield from _lines(resolved, value, f"{key}.", only)
        else:
            line = f"{indent}{name}: {_yaml(value)}"
            yield f"{line:<{_SOURCE_COLUMN}}  # {resolved.sources[key]}"


def _yaml(value: Any) -> str:
    """A value as YAML on one line."""
    plain = list(value) if isinstance(value, tuple) else _without_records(value)
    text = yaml.safe_dump(plain, default_flow_style=True, width=10**9, allow_unicode=True)
    text = text.removesuffix("\n").removesuffix("\n...")
    return json.dumps(plain, ensure_ascii=False) if "\n" in text else text  # YAML folds a text with line breaks


def _without_records(value: Any) -> Any:
    """The setting `rewards` with each reward as a mapping of what differs from the defaults; other values as they are.

    A reward of which only the weight is given is its weight.
    """
    if not isinstance(value, dict) or not any(isinstance(entry, RewardTerm) for entry in value.values()):
        return value
    given = {name: entry and entry.given() for name, entry in cast("Rewards", value).items()}
    return {
        name: entry["weight"] if entry and len(entry) == 1 and entry["weight"] else entry
        for name, entry in given.items()
    }


def _known_section(name: str) -> str:
    """`name` if it is a section or a setting, or empty. Raises SettingsError with a suggestion for other names."""
    if not name or name in sections() or name in catalog():
        return name
    near = suggestion(name, [*sections(), *presets()])
    if not near and similar(name):
        near = f": did you mean {similar(name)[0]}?"
    near = near or f" (sections: {', '.join(section for section in sections() if '.' not in section)})"
    raise SettingsError(f"{name!r} is neither a preset nor a section{near}")


def settings_help(names: Sequence[str]) -> str:
    """Help text of sections (NO_SECTION: the settings of none): each setting with default, type, rule and meaning."""
    return "\n\n".join(_section_text(name) for name in names)


def _section_text(name: str) -> str:
    if name in catalog() and name not in sections():
        return _setting_text(catalog()[name])
    cls = sections()[name] if name else Settings
    summary = " ".join((cls.__doc__ or "").split()) if name else "Settings of every command."
    settings = [setting for setting in settings_of(name) if setting.key.rsplit(".", 1)[0] == name or not name]
    inner = [other for other in sections() if other.startswith(f"{name}.") and name]
    head = f"{name or 'general'}: {summary}"
    if name == REWARDS:
        settings += [replace(field, key=f"{REWARDS}.NAME.{field.key}") for field in reward_fields().values()]
    text = "\n".join([_wrap(head, ""), *map(_setting_text, settings)])
    return "\n\n".join([text, *(_section_text(other) for other in inner if other.count(".") == name.count(".") + 1)])


def _setting_text(setting: Setting) -> str:
    rule = f", {setting.rule}" if setting.rule else ""
    meaning = f"({setting.type_name}{rule}) {setting.meaning}"
    return "\n".join([_wrap(f"{setting.key}={_override(setting.default)}", "  "), _wrap(meaning, "      ")])


def _override(value: Any) -> str:
    """A default as it is written on the command line."""
    return "''" if value == "" else _yaml(value)


def _wrap(text: str, indent: str) -> str:
    width = min(shutil.get_terminal_size((100, 24)).columns, 120)
    return textwrap.fill(
        text,
        width,
        initial_indent=indent,
        subsequent_indent=f"{indent}  ",
        break_long_words=False,
        break_on_hyphens=False,
    )


def option_hint(option: str, value: str | None, prefer: Sequence[str] = ()) -> str:
    """How to write `--option value` as a setting: 'write policy.optimizer.lr=3'. Empty if no setting looks like it.

    `prefer` names the sections whose settings win if several have this name.
    """
    names = similar(option.lstrip("-"), prefer)
    given = [f"{name}={_hinted_value(catalog()[name], value)}" for name in names]
    return ("write " if len(given) == 1 else "write one of ") + ", ".join(given) if given else ""


def _hinted_value(setting: Setting, value: str | None) -> str:
    if value is not None:
        return value
    return "true" if setting.type is bool else "VALUE"

"""The actions of the command line as data, and how the words after an action become a preset and overrides."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from conf.catalog import catalog, sections
from conf.errors import SettingsError
from conf.layers import is_preset, presets
from conf.rules import suggestion
from conf.show import NO_SECTION, option_hint, settings_help

_OPTION, _OVERRIDE = re.compile(r"--?[A-Za-z]"), re.compile(r"[\w.\-]*=")


@dataclass(frozen=True)
class Word:
    """A word of the command line that is not a preset and sets a setting by its position."""

    setting: str
    """Key of the setting."""
    name: str
    """The word's name in the usage line."""
    pattern: str = r".+"
    """Regular expression that the whole word must match."""


@dataclass(frozen=True)
class Action:
    """One thing that a verb can do."""

    command: str
    """ "module:function"; see `argument` for its argument."""
    help: str
    """One line for the list of actions."""
    sections: tuple[str, ...] = ()
    """Sections of the settings that the help describes."""
    words: tuple[Word, ...] = ()
    """Words that set settings by their position."""
    options: Mapping[str, str] = field(default_factory=dict[str, str])
    """Option -> setting, for the few settings that can also be given as `--option value`."""
    implied: tuple[str, ...] = ()
    """Overrides that the action implies. They win over the preset and lose to the command line."""
    argument: Literal["settings", "resolved", "command"] = "settings"
    """Argument of the function: the Settings, the settings with their sources, or the Settings of another command,
    which follows the verb and is put into `submit.command`."""


def read_words(action: Action, title: str, words: Sequence[str]) -> tuple[str, list[str]]:
    """The words after an action -> its preset ("scenes" if none is named) and its overrides.

    `title` is the action as the user writes it, for error messages. A second preset's name counts as a section where
    the action takes one. Raises SettingsError, with a suggestion, for a word that means nothing.
    """
    preset, overrides, free = "", list[str](), list(action.words)
    for word in _without_options(action, title, words):
        if _OVERRIDE.match(word):
            overrides.append(word)
        elif is_preset(word) and not (preset and word in sections() and _takes_section(free)):
            if preset:
                raise SettingsError(
                    f"two presets, {preset} and {word}: name one, or write a YAML file with the key base"
                )
            preset = word
        elif free and re.fullmatch(free[0].pattern, word, re.DOTALL):
            overrides.append(_quoted(free.pop(0).setting, word))
        else:
            raise SettingsError(_unexpected(word, free, overrides))
    return preset or "scenes", overrides


def _takes_section(free: Sequence[Word]) -> bool:
    """Whether the next free word is the name of a section."""
    return bool(free) and free[0].setting == "config.only"


def _without_options(action: Action, title: str, words: Sequence[str]) -> list[str]:
    """The words, with the options that the action knows as overrides. Raises SettingsError for other options."""
    rest, left = list[str](), list(words)
    while left:
        if not _OPTION.match(left[0]):
            rest.append(left.pop(0))
            continue
        name, value = option(left)
        setting = action.options.get(name.lstrip("-"))
        if setting is None:
            hint = option_hint(name, value, action.sections) or f"see spatialt2i {title} --help"
            raise SettingsError(f"{name} is not an option of {title}: {hint}")
        if value is None:
            raise SettingsError(f"{name} needs a value, e.g. {name} PATH")
        rest.append(_quoted(setting, value))
        left = left[1 if "=" in left[0] else 2 :]
    return rest


def option(words: Sequence[str]) -> tuple[str, str | None]:
    """The option that `words` start with, and its value: after '=' or in the next word; None if there is none."""
    name, equals, value = words[0].partition("=")
    if equals:
        return name, value
    follows = len(words) > 1 and not (_OPTION.match(words[1]) or _OVERRIDE.match(words[1]))
    return name, words[1] if follows else None


def _quoted(setting: str, word: str) -> str:
    """An override that takes a word exactly as it is, whatever it means in YAML or to OmegaConf."""
    return f"{setting}={json.dumps(word).replace('${', chr(92) * 2 + '${')}"


def _unexpected(word: str, free: Sequence[Word], overrides: Sequence[str]) -> str:
    """The message for a word that means nothing. `free`: words that are still missing; `overrides`: those before it."""
    if not word and free:
        return f"expected {free[0].name}, got an empty word{_quotes_hint(free[0])}"
    return f"{word!r} is neither a preset nor section.key=value{_word_hint(word, free, overrides)}"


def _word_hint(word: str, free: Sequence[Word], overrides: Sequence[str]) -> str:
    """': ...' with what a word that means nothing may have meant, else ''."""
    key, _, value = overrides[-1].partition("=") if overrides else ("", "", "")
    if key in catalog() and catalog()[key].is_list and not value.startswith("["):  # betas=0.9 0.99
        return f": write '{key}=[{value.strip(' ,')},{word}]', in quotes"
    near = suggestion(word, presets())
    if near:
        return near
    if word == "help":
        return ": did you mean --help?"
    if "." in word and (hint := option_hint(word, None)):
        return f": {hint}"
    if free:
        return f": write {free[0].setting}={word}"
    return f": did you mean run_dir={word}?" if re.fullmatch(r"\S*/\S*", word) else ""


def _quotes_hint(word: Word) -> str:
    """How to give a word that stands in quotes in the usage line, else ''."""
    return ": quote your text, e.g. 'a cup left of a plate'" if word.name.startswith("'") else ""


def action_help(action: Action, title: str) -> str:
    """Usage of one action, and its settings."""
    if action.argument == "command":
        usage = f"usage: spatialt2i {title} VERB [ACTION] [PRESET] [section.key=value ...]"
    else:
        words = [word.name for word in action.words] + [f"[--{name} VALUE]" for name in action.options]
        usage = " ".join(["usage: spatialt2i", title, *words, "[PRESET] [section.key=value ...]"])
    summary = f"{action.help[0].upper()}{action.help[1:]}."
    if action.implied:
        summary += f" Implies {' '.join(action.implied)}."
    heading = "Settings: each is shown as key=default, followed by its type and its meaning."
    return "\n\n".join([usage, summary, heading, settings_help([*action.sections, NO_SECTION])])

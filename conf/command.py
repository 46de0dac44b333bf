"""The actions of the command line as data, and how the words after an action become a preset and overrides."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from conf.catalog import catalog, sections
from conf.errors import SettingsError
from conf.layers import is_preset, presets
from conf.rules import escaped, suggestion
from conf.show import NO_SECTION, option_hint, settings_help

RunUse = Literal["none", "optional", "starts", "continues"]
"""What an action does with a run: nothing, uses one if it is named, may start one, or needs one that exists."""

_OPTION, _OVERRIDE = re.compile(r"--?[A-Za-z]"), re.compile(r"[\w.\-]*=")


@dataclass(frozen=True)
class Word:
    """A word of the command line that is not a preset and sets a setting by its position."""

    setting: str
    """Key of the setting."""
    name: str
    """The word's name in the usage line."""
    text: bool = False
    """Whether it is a text of the user, in which spaces and "=" have no meaning, and not a path or a name."""


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
    short: Mapping[str, str] = field(default_factory=dict[str, str])
    """Key -> setting, for the few settings that can be given without their section, as `key=value`."""
    implied: tuple[str, ...] = ()
    """Overrides that the action implies. They win over the preset and lose to the command line."""
    resumes: bool = False
    """Whether the same command continues where it was stopped."""
    preset: str = ""
    """Preset of the action if the command line names none. Empty: the settings of the run, or else scenes."""
    check: str = ""
    """ "module:function" that takes the Settings and raises UserError if the action cannot start. Imports no torch."""
    run: RunUse = "none"
    """What the action does with a run."""
    replaces_run: tuple[str, ...] = ()
    """Settings that replace what the action needs of an existing run, so that the run may be new."""
    argument: Literal["settings", "resolved", "command"] = "settings"
    """Argument of the function: the Settings, the settings with their sources, or the Settings of another command,
    which follows the verb and is put into `submit.command`."""


def read_words(action: Action, title: str, words: Sequence[str]) -> tuple[str, list[str]]:
    """The words after an action -> its preset ("" if none is named) and its overrides.

    `title` is the action as the user writes it, for error messages. A second preset's name counts as a section where
    the action takes one. Raises SettingsError, with a suggestion, for a word that means nothing.
    """
    preset, overrides, free, listed = "", list[str](), list(action.words), dict[str, list[str]]()
    for word in _without_options(action, title, words):
        if free and _is_meant_as(free[0], word):
            if catalog()[free[0].setting].is_list:  # takes all further words
                listed.setdefault(free[0].setting, []).append(word)
            else:
                overrides.append(override_of(free.pop(0).setting, word))
        elif _OVERRIDE.match(word):
            key, _, value = word.partition("=")
            overrides.append(f"{action.short.get(key, key)}={value}")
        elif is_preset(word) and not (preset and word in sections() and _takes_section(free)):
            if preset:
                raise SettingsError(
                    f"two presets, {preset} and {word}: name one, or write a YAML file with the key base"
                )
            preset = word
        elif free and not free[0].text and word:
            overrides.append(override_of(free.pop(0).setting, word))
        else:
            raise SettingsError(_unexpected(word, free, overrides, words))
    return preset, [*overrides, *(override_of(setting, values) for setting, values in listed.items())]


def _is_meant_as(free: Word, word: str) -> bool:
    """Whether a word can only be the value of `free`: a text with spaces or of one plain word, or an existing path."""
    key = word.partition("=")[0]
    if "=" in word and (key in catalog() or key.partition(".")[0] in sections()):
        return False
    if not free.text:
        return "=" in word and os.path.exists(word)
    if re.search(r"\s", word.strip()):
        return True
    is_plain = bool(word) and not re.search(r"[=./\\\s]", word) and word != "help"
    return is_plain and not is_preset(word) and not suggestion(word, presets())


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
        rest.append(override_of(setting, value))
        left = left[1 if "=" in left[0] else 2 :]
    return rest


def option(words: Sequence[str]) -> tuple[str, str | None]:
    """The option that `words` start with, and its value: after '=' or in the next word; None if there is none."""
    name, equals, value = words[0].partition("=")
    if equals:
        return name, value
    follows = len(words) > 1 and not (_OPTION.match(words[1]) or _OVERRIDE.match(words[1]))
    return name, words[1] if follows else None


def override_of(setting: str, value: str | Sequence[str]) -> str:
    """An override that takes a word, or a list of them, exactly as it is, whatever it means in YAML or to OmegaConf."""
    literal = escaped(value) if isinstance(value, str) else list(map(escaped, value))
    return f"{setting}={json.dumps(literal)}"


def _unexpected(word: str, free: Sequence[Word], overrides: Sequence[str], words: Sequence[str]) -> str:
    """The message for one of `words`, which means nothing.

    `free`: words of the action that are still missing; `overrides`: those before this word.
    """
    if word in catalog():
        follows = words[list(words).index(word) + 1 :][:1]
        return f"{word} has no '=': write {word}={follows[0] if follows else 'VALUE'}"
    if not word.strip() and free:
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
    return ""


def _quotes_hint(word: Word) -> str:
    """How to give a word that stands in quotes in the usage line, else ''."""
    return ": quote your text, e.g. 'a cup left of a plate'" if word.text else ""


_RUN_HELP: Mapping[RunUse, str] = {
    "none": "",
    "optional": "\nWith run_dir, or the path of a run as a word, it uses the settings of that run.",
    "starts": "\nIn a run that exists it goes on with the settings of that run, unless a preset is named.",
    "continues": "\nWithout run_dir, or the path of a run as a word, it uses the newest run in runs/, and the settings "
    "of that run unless a preset is named.",
}


def action_help(action: Action, title: str) -> str:
    """Usage of one action, and its settings."""
    if action.argument == "command":
        usage = f"usage: spatialt2i {title} VERB [ACTION] [PRESET] [section.key=value ...]"
    else:
        words = [word.name for word in action.words] + [f"[--{name} VALUE]" for name in action.options]
        usage = " ".join(["usage: spatialt2i", title, *words, "[PRESET] [section.key=value ...]"])
    summary = f"{action.help[0].upper()}{action.help[1:]}."
    if action.implied:
        summary += f" Implies {' '.join(filter(None, [action.preset, *action.implied]))}."
    summary += "" if action.preset else _RUN_HELP[action.run]
    heading = "Settings: each is shown as key=default, followed by its type and its meaning."
    return "\n\n".join([usage, summary, heading, settings_help([*action.sections, NO_SECTION])])

"""`spatialt2i VERB [ACTION] [PRESET] [section.key=value ...]`: one verb for each stage.

A verb with several actions needs one of them; such a verb alone shows its help.

Heavy libraries are imported by the action that needs them, so that help and mistakes are answered at once.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.metadata
import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from conf import Resolved, Settings, SettingsError, UserError, presets, resolve
from conf.command import Action, action_help, option, read_words
from conf.layers import is_preset
from conf.rules import suggestion
from conf.show import option_hint
from pipelines.verbs import VERBS

QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "TRANSFORMERS_VERBOSITY": "error", "DIFFUSERS_VERBOSITY": "error"}
"""Environment variables that are set unless the user has set them."""

HELP = ("-h", "--help")
VERSION = "--version"


def main(arguments: Sequence[str] | None = None) -> int:
    """Console entry. Returns the exit code: 0 done, 1 a check failed, 2 the user's input is wrong."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        if words == [VERSION]:
            print(f"spatialt2i {importlib.metadata.version('spatialt2i')}")
        elif any(word in HELP for word in words) or not words or (len(words) == 1 and needs_action(words[0])):
            print(help_text(words))
        else:
            run(*parse(words))
        sys.stdout.flush()
    except UserError as error:
        print(f"spatialt2i: {_message(error)}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader of our output, e.g. `head`, has closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _message(error: UserError) -> str:
    """The text of an error. If it was raised in a Ray task, Ray's own text is a traceback, so its cause is shown."""
    cause = vars(error).get("cause")
    return str(cause if isinstance(cause, UserError) else error)


def run(action: Action, resolved: Resolved) -> None:
    """Imports the action's function and calls it. Raises SystemExit with exit code 1 if a check failed."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    module, function = action.command.split(":")
    argument = resolved if action.argument == "resolved" else resolved.settings
    getattr(importlib.import_module(module), function)(argument)


def parse_settings(words: Sequence[str]) -> tuple[Action, Settings]:
    """Like `parse`, without the sources of the values."""
    action, resolved = parse(words)
    return action, resolved.settings


def parse(words: Sequence[str]) -> tuple[Action, Resolved]:
    """Command words -> what to run with which settings. Raises SettingsError, with a suggestion, for unknown words."""
    verb, name, rest = select(words)
    action = VERBS[verb][name]
    if action.argument == "command":
        return action, _submission(rest)
    preset, overrides = read_words(action, _title(verb, name), rest)
    return action, resolve(preset, overrides, action.implied)


def select(words: Sequence[str]) -> tuple[str, str, list[str]]:
    """The verb, the action (a verb's only one need not be named), and the remaining words.

    Raises SettingsError, with a suggestion, for an unknown verb or action, and if the verb needs an action.
    """
    verb, *rest = words
    asked = next((word for word in words if _means_version(word)), "")
    if asked and "publish" not in words:  # `preferences publish` has a version of its own
        raise SettingsError(f"{asked}: did you mean spatialt2i {VERSION}, without other words?")
    if verb not in VERBS:
        raise SettingsError(f"no verb {verb!r}{_verb_hint(words)} (available: {', '.join(VERBS)})")
    actions = VERBS[verb]
    first = next(iter(actions))
    if needs_action(verb):
        if not rest or rest[0] not in actions:
            raise SettingsError(_missing_action(verb, rest))
        return verb, rest[0], rest[1:]
    named = rest[:1] == [first] and actions[first].argument != "command"  # `submit run` submits a run
    return verb, first, rest[1:] if named else rest


def needs_action(verb: str) -> bool:
    """Whether a word is a verb that must be followed by one of its actions."""
    return len(VERBS.get(verb, {})) > 1


def _means_version(word: str) -> bool:
    """Whether a word is the option for the version, or looks like it."""
    return word.startswith("--") and bool(difflib.get_close_matches(word, [VERSION], cutoff=0.85))


def _verb_hint(words: Sequence[str]) -> str:
    """': ...' with what words that do not start with a verb may have meant, else ''."""
    verb = words[0]
    if verb == "help":
        return ": did you mean spatialt2i --help?"
    hint = option_hint(*option(words)) if verb.startswith("-") else ""
    return f": {hint}, after a verb" if hint else suggestion(verb, list(VERBS))


def _missing_action(verb: str, rest: Sequence[str]) -> str:
    """The message for a verb that is not followed by one of its actions."""
    actions = list(VERBS[verb])
    if rest[:1] == ["help"]:
        return f"'help' is not an action of {verb}: did you mean spatialt2i {verb} --help?"
    if not rest or is_preset(rest[0]) or "=" in rest[0] or rest[0].startswith("-"):
        return f"{verb} needs an action ({', '.join(actions)}): write e.g. {shlex.join([verb, actions[0], *rest])}"
    return f"{rest[0]!r} is not an action of {verb}{suggestion(rest[0], actions)} (available: {', '.join(actions)})"


def _submission(words: Sequence[str]) -> Resolved:
    """The settings of the command that follows `submit`, with that command in `submit.command`."""
    if not words:
        raise SettingsError("submit needs the command to run on the cluster, e.g. submit policy train flux_dev")
    _, resolved = parse(words)
    settings = resolved.settings
    if not Path(settings.run_dir).is_absolute():
        raise SettingsError(
            "run_dir of a submitted job must be an absolute path on storage that every node can reach, got "
            f"{settings.run_dir}: files in the job's own folder are lost. Add "
            f"run_dir=/shared/{Path(settings.run_dir).name}"
        )
    saved = settings.policy.checkpoint.dir
    if saved and "://" not in saved and not Path(saved).is_absolute():
        raise SettingsError(
            "policy.checkpoint.dir of a submitted job must be a URI or an absolute path that every node can reach, got "
            f"{saved}: use /shared/{Path(saved).name}, or leave it out to save in the run directory"
        )
    command = shlex.join(["spatialt2i", *(word for word in words if not word.startswith("submit."))])
    return replace(resolved, settings=replace(settings, submit=replace(settings.submit, command=command)))


def help_text(words: Sequence[str]) -> str:
    """Help for the words before the first `--help`: for all verbs, for one verb, or for one action."""
    words = words[: next((number for number, word in enumerate(words) if word in HELP), len(words))]
    if not words:
        return _overview(list(VERBS))
    if needs_action(words[0]) and (len(words) == 1 or is_preset(words[1]) or "=" in words[1]):
        return _overview([words[0]])
    verb, name, _ = select(words)
    return action_help(VERBS[verb][name], _title(verb, name))


def _title(verb: str, name: str) -> str:
    """An action as it is written on the command line."""
    return verb if len(VERBS[verb]) == 1 else f"{verb} {name}"


def _overview(verbs: Sequence[str]) -> str:
    """The actions of some verbs, a line each."""
    rows = [(_title(verb, name), action.help) for verb in verbs for name, action in VERBS[verb].items()]
    width = max(len(name) for name, _ in rows)
    one = verbs[0] if len(verbs) == 1 else ""
    lines = [f"usage: spatialt2i {one or 'VERB'} [ACTION] [PRESET] [section.key=value ...]", ""]
    lines += [f"  {name:<{width}}  {text}" for name, text in rows]
    lines += ["", f"Presets: {', '.join(presets())}, or a YAML file. Default: scenes."]
    if one:
        return "\n".join([*lines, f"The settings of an action: spatialt2i {one} ACTION --help."])
    lines += [
        "Help for a verb or an action, with its settings: spatialt2i VERB [ACTION] --help.",
        "The settings in force: spatialt2i config show [PRESET] [SECTION] [section.key=value ...].",
        "Version: spatialt2i --version.",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())

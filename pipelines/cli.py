"""`spatialt2i VERB [ACTION] [PRESET] [section.key=value ...]`: one verb for each stage.

Heavy libraries are imported by the action that needs them, so that help and mistakes are answered at once.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from conf import Resolved, Settings, SettingsError, UserError, presets, resolve
from conf.command import Action, action_help, option, read_words, unexpected
from conf.layers import is_preset
from conf.rules import suggestion
from conf.show import option_hint
from pipelines.verbs import VERBS

QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "TRANSFORMERS_VERBOSITY": "error", "DIFFUSERS_VERBOSITY": "error"}
"""Environment variables that are set unless the user has set them."""

HELP = ("-h", "--help")


def main(arguments: Sequence[str] | None = None) -> int:
    """Console entry. Returns the exit code: 0 done, 1 a check failed, 2 the user's input is wrong."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        if words[:1] == ["--version"]:
            print(f"spatialt2i {importlib.metadata.version('spatialt2i')}")
        elif not words or any(word in HELP for word in words):
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
    argument = resolved if action.takes == "resolved" else resolved.settings
    getattr(importlib.import_module(module), function)(argument)


def parse_settings(words: Sequence[str]) -> tuple[Action, Settings]:
    """Like `parse`, without the sources of the values."""
    action, resolved = parse(words)
    return action, resolved.settings


def parse(words: Sequence[str]) -> tuple[Action, Resolved]:
    """Command words -> what to run with which settings. Raises SettingsError, with a suggestion, for unknown words."""
    verb, name, rest = select(words)
    action = VERBS[verb][name]
    if action.takes == "command":
        return action, _submission(rest)
    preset, overrides = read_words(action, _title(verb, name), rest, list(VERBS[verb]))
    return action, resolve(preset, overrides, action.implied)


def select(words: Sequence[str]) -> tuple[str, str, list[str]]:
    """The verb, the action (the verb's first one if none is named), and the remaining words."""
    verb, *rest = words
    if verb not in VERBS:
        hint = option_hint(*option(words)) if verb.startswith("-") else ""
        near = f": {hint}, after a verb" if hint else suggestion(verb, list(VERBS))
        raise SettingsError(f"no verb {verb!r}{near} (available: {', '.join(VERBS)})")
    actions = VERBS[verb]
    first = next(iter(actions))
    named = rest[:1] != [] and rest[0] in actions and actions[first].takes != "command"  # `submit run` submits a run
    return verb, rest.pop(0) if named else first, rest


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
    verb, name, _ = select(words)
    named = len(VERBS[verb]) == 1 or words[1:2] == [name]
    if not named and len(words) > 1 and not is_preset(words[1]) and "=" not in words[1]:
        raise SettingsError(unexpected(words[1], f"an action of {verb}", list(VERBS[verb])))
    return action_help(VERBS[verb][name], _title(verb, name)) if named else _overview([verb])


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
        "Without ACTION, the first action of the verb is run.",
        "Help for a verb or an action, with its settings: spatialt2i VERB [ACTION] --help.",
        "The settings in force: spatialt2i config show [PRESET] [SECTION] [section.key=value ...].",
        "Version: spatialt2i --version.",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())

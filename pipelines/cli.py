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
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from conf import Resolved, Settings, SettingsError, presets, resolve
from conf.command import Action, action_help, option, override_of, read_words
from conf.layers import is_preset
from conf.load import given_value, is_given, keys_in
from conf.rules import suggestion
from conf.show import option_hint
from pipelines.common import console, interrupt, library_log
from pipelines.common.paths import run_paths
from pipelines.common.progress_line import ProgressLine
from pipelines.common.run_lookup import FoundRun, find_run, recorded_in, run_words
from pipelines.common.terminal import print_warning
from pipelines.verbs import VERBS

QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_AUTO_CONNECT": "0",  # else a thread of Serve joins another cluster of the machine after the end
    "TRANSFORMERS_VERBOSITY": "error",
    "DIFFUSERS_VERBOSITY": "error",
}
"""Environment variables that are set unless the user has set them."""

HELP = ("-h", "--help")
VERSION = "--version"
DEFAULT_PRESET = "scenes"
COMMENT = "# "
"""Starts a line that is no YAML, where settings are printed."""


@dataclass(frozen=True)
class Command:
    """A command line that has been read."""

    action: Action
    resolved: Resolved
    run: FoundRun | None
    """The run that it uses, which its first line names."""
    unknown: tuple[str, ...] = ()
    """Recorded keys of that run that are no setting of this version. They are left out."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Console entry. Returns the exit code: 0 done, 1 a check failed, 2 the user's input is wrong."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if arguments is None:  # in a process of its own
        library_log.start(shlex.join(["spatialt2i", *words]))
        interrupt.catch_sigterm()
    resumes = False
    try:
        if words == [VERSION]:
            print(f"spatialt2i {importlib.metadata.version('spatialt2i')}")
        elif any(word in HELP for word in words) or not words or (len(words) == 1 and needs_action(words[0])):
            print(help_text(words))
        else:
            command = parse(words)
            resumes = command.action.resumes
            if command.run:
                print(f"{COMMENT if command.action.argument == 'resolved' else ''}{command.run}", flush=True)
            if command.unknown:
                print_warning(f"its settings.yaml has keys that are no setting here: {', '.join(command.unknown)}")
            run(command.action, command.resolved)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader of our output, e.g. `head`, has closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except BaseException as error:  # the boundary of the process: every end has an exit code
        code = console.report(error, resumes)
        if code is None:
            raise
        return code
    return 0


def run(action: Action, resolved: Resolved) -> None:
    """Checks what the action needs, then imports its function and calls it.

    Raises UserError, or SystemExit with exit code 1 if a check of the action itself failed.
    """
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    if action.check:
        _function(action.check)(resolved.settings)
    argument = resolved if action.argument == "resolved" else resolved.settings
    with ProgressLine("spatialt2i", text="loading the libraries"):
        command = _function(action.command)
    interrupt.catch_sigterm_again()  # the import may have replaced the handler
    try:
        command(argument)
    finally:
        if Path(resolved.settings.run_dir).is_dir():
            library_log.move(run_paths(resolved.settings).library_log, if_written=True)


def _function(name: str) -> Callable[[Any], None]:
    """The function that "module:function" names."""
    module, function = name.split(":")
    return getattr(importlib.import_module(module), function)


def parse_settings(words: Sequence[str]) -> tuple[Action, Settings]:
    """Command words -> what to run with which settings. Raises what `parse` raises."""
    command = parse(words)
    return command.action, command.resolved.settings


def parse(words: Sequence[str]) -> Command:
    """Command words -> a command. Raises UserError, with a suggestion, for words, values and runs that are wrong."""
    verb, name, rest = select(words)
    action = VERBS[verb][name]
    if action.argument == "command":
        return Command(action, _submission(rest), None)
    preset, overrides = read_words(action, _title(verb, name), run_words(action, rest))
    named = preset or action.preset
    given = given_value("run_dir", preset, (), overrides)
    if isinstance(given, str) and "${" in given:  # it refers to other settings
        given = resolve(named or DEFAULT_PRESET, overrides).settings.run_dir
    default = given_value("run_dir", "", action.implied, ()) or Settings.run_dir
    replaced = any(is_given(key, preset, overrides) for key in action.replaces_run)
    run = find_run(action.run, given, default, preset, replaced, action.replaces_run)
    if run is None:
        return Command(action, resolve(named or DEFAULT_PRESET, overrides, action.implied), None)
    folder = override_of("run_dir", run.folder)
    implied = [] if given else [folder]
    overrides += [folder] if given and given != run.folder else []
    recorded = None if named else run.settings
    unknown = None if action.resumes else list[str]()  # work that continues must not fall back to a default
    resolved = resolve(named or DEFAULT_PRESET, overrides, implied, recorded, unknown)
    return Command(action, resolved, run, tuple(unknown or ()))


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
    resolved = _submitted(words)
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
    verb, name, _ = select(words)
    submit = replace(settings.submit, command=command, writes_run=VERBS[verb][name].resumes)
    return replace(resolved, settings=replace(settings, submit=submit))


def _submitted(words: Sequence[str]) -> Resolved:
    """The settings of a command that another machine will run, in a run directory that may not exist on this one.

    Without a preset, a value that breaks a rule only together with settings of that run is left to the job to check.
    """
    verb, name, rest = select(words)
    action = VERBS[verb][name]
    if action.argument == "command":
        raise SettingsError("submit cannot submit itself: write the command to run on the cluster after one submit")
    paths = [f"run_dir={word}" if word.startswith("/") and not action.words else word for word in rest]
    preset, overrides = read_words(action, _title(verb, name), paths)
    recorded = recorded_in(given_value("run_dir", preset, (), overrides) or "") if action.run != "none" else None
    named = preset or action.preset or ("" if recorded else DEFAULT_PRESET)
    try:
        return resolve(named, overrides, action.implied, None if named else recorded)
    except SettingsError as error:
        given = {word.partition("=")[0] for word in overrides}
        if preset or recorded or set(keys_in(str(error))) <= given:
            raise
        own = [word for word in overrides if word.startswith(("run_dir=", "submit.", "policy.checkpoint.dir="))]
        return resolve(DEFAULT_PRESET, own)


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
        "The settings in force: spatialt2i config show [RUN or PRESET] [SECTION] [section.key=value ...].",
        "Version: spatialt2i --version.",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())

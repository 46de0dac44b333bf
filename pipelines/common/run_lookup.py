"""Finds the run that a command continues or reads, and records the settings of a run in its directory.

A run directory holds `settings.yaml`: what the commands that built, trained or ran the pipeline there were given. Every
later command in that directory starts from it, so a preset and overrides need not be repeated.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from conf import Settings, SettingsError, UserError, dump, load_recorded
from conf.command import Action, RunUse, override_of
from conf.layers import is_preset, presets
from conf.rules import suggestion
from pipelines.common.paths import RunPaths, run_paths
from pipelines.common.stage_paths import Stage

RUNS = "runs"
"""Folder, in the working directory, in which a run is looked for if none is named."""

RECORDED_SECTIONS: Mapping[Stage, tuple[str, ...]] = {
    "preferences": (
        "flux",
        "preferences",
        "writer",
        "perturber",
        "seedream",
        "qwen_image",
        "hunyuan_image",
        "budget",
    ),
    "reward": ("spatialscore", "reward", "baselines"),
    "evaluation": ("evaluation",),
    "policy": ("flux", "serving", "rewards", "judge", "detector", "policy", "export"),
}
"""Stage -> the sections that its command records. The other sections keep the values of earlier commands."""


_START = "start one with `spatialt2i demo`, `spatialt2i run` or `spatialt2i preferences build`"


@dataclass(frozen=True)
class FoundRun:
    """The run that a command uses."""

    folder: str
    """Value for `run_dir`."""
    settings: Path | None
    """The settings that were recorded there, if any."""
    note: str
    """Why this run: "new", "the newest of 3", or ""."""

    def __str__(self) -> str:
        """The first line of a command's output, without its line break."""
        return f"run: {shown_path(self.folder)}" + (f" ({self.note})" if self.note else "")


def find_run(
    use: RunUse, given: str | None, default: str, preset: str, replaced: bool, replaces: Sequence[str] = ()
) -> FoundRun | None:
    """The run of a command; None if it uses none.

    `given` is the run_dir that the user named, `default` the one of a command that starts a run. `preset` is the preset
    that the user named, or "": without run_dir, the newest run of that preset is used. `replaced`: one of the settings
    `replaces` replaces what the command needs of an existing run.

    Raises UserError, with the runs that exist, if the command needs a run that does not exist.
    """
    if use == "none" or (use == "optional" and (given is None or (preset and not is_run(Path(given))))):
        return None
    if given is None and use == "continues":
        if runs := known_runs(preset):
            folder = str(runs[0])
            return FoundRun(folder, recorded_in(folder), f"the newest of {len(runs)}" if len(runs) > 1 else "")
        if not replaced:
            raise UserError(_no_run(preset) + _instead_of_a_run(replaces))
    folder = default if given is None else str(given)
    if not folder.strip():
        raise SettingsError("run_dir must not be empty: write e.g. run_dir=runs/mine")
    folder = str(Path(folder))  # runs/demo/ is the same run as runs/demo
    exists = is_run(Path(folder))
    if use == "continues" and not exists and not replaced:
        raise UserError(missing_run(folder) + _instead_of_a_run(replaces))
    note = "" if exists else "new" if use != "optional" else "no run yet"
    return FoundRun(folder, recorded_in(folder), note)


def run_words(action: Action, words: Sequence[str]) -> list[str]:
    """The words after an action, with each that is the path of a run (or its name in runs/) as an override of run_dir.

    Raises UserError, with the runs that exist, for a path of no run where the action takes no other path.
    """
    return list(words) if action.run == "none" else [_run_word(action, word) for word in words]


def _run_word(action: Action, word: str) -> str:
    if not word.strip() or is_preset(word) or word.startswith("-"):
        return word
    if is_run(Path(word)):
        return override_of("run_dir", word)
    if action.words or re.search(r"[=\s]", word):
        return word
    if is_run(Path(RUNS, word)):
        return override_of("run_dir", str(Path(RUNS, word)))
    if "/" in word or (similar_run(word) and not suggestion(word, presets())):
        raise UserError(missing_run(word))
    return word


def is_run(folder: Path) -> bool:
    """Whether a folder is a run directory: a stage has started there."""
    paths = RunPaths(folder)
    return any(_exists(path) for path in _marks(paths)) or next(_own_pairs(paths), None) is not None


def known_runs(preset: str = "", parent: str = RUNS) -> list[Path]:
    """The runs in a folder, the one that was written last first; with `preset`, those that were recorded with it."""
    folder = Path(parent)
    names = sorted(folder.iterdir()) if folder.is_dir() else []
    runs = [path for path in names if path.is_dir() and is_run(path)]
    wanted = Path(preset).stem
    return sorted((run for run in runs if not preset or _preset_of(run) == wanted), key=_last_write, reverse=True)


def similar_run(word: str) -> str:
    """': did you mean runs/demo?' for a run whose path or name looks like `word`, else ''."""
    paths = {str(run): str(run) for run in known_runs()} | {run.name: str(run) for run in known_runs()}
    near = suggestion(word.rstrip("/"), list(paths))
    name = near.removeprefix(": did you mean ").removesuffix("?")
    return f": did you mean {shown_path(paths[name])}?" if near else ""


def record_settings(settings: Settings, stage: Stage) -> None:
    """Writes the settings of a stage that starts to `settings.yaml` of the run directory, atomically.

    Sections that the stage does not use keep the values that are recorded there, if any are. Raises SettingsError if
    the file cannot be written.
    """
    path = run_paths(settings).settings
    if path.is_file():
        used = set(RECORDED_SECTIONS[stage])
        try:
            earlier = load_recorded(path)
        except SettingsError:  # the file of another version: this command's settings replace it
            earlier = settings
        sections = {name: value for name, value in vars(earlier).items() if _is_section(value) and name not in used}
        settings = replace(settings, **sections)
    dump(settings, path)


def _is_section(value: Any) -> bool:
    return hasattr(type(value), "section")


def recorded_in(folder: str) -> Path | None:
    """The settings that were recorded in a run directory; None if there are none."""
    path = RunPaths(Path(folder)).settings
    return path if _exists(path) else None


def _marks(paths: RunPaths) -> Iterator[Path]:
    """Files and folders of which every run has at least one."""
    yield paths.settings
    yield paths.preferences  # without a manifest, the pairs are the user's own
    yield paths.reward_model
    yield paths.checkpoints
    yield paths.export
    yield paths.benchmark  # of a model that was not trained here


def _own_pairs(paths: RunPaths) -> Iterator[Path]:
    """The parquet files of pairs, which a user may have put there."""
    return paths.preferences.glob("*.parquet") if _exists(paths.preferences) else iter(())


def _last_write(folder: Path) -> float:
    """Time of the newest write of the settings or of a stage."""
    paths = RunPaths(folder)
    stages = (paths.preferences, paths.reward, paths.policy, paths.evaluation, paths.metrics, paths.timings)
    return max((path.stat().st_mtime for path in (*_marks(paths), *stages) if _exists(path)), default=0.0)


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # a name that is too long, a NUL in it, or a folder that may not be read
        return False


def _preset_of(run: Path) -> str:
    """The preset that a run was recorded with, from the first line of its settings; "" if it is not known."""
    path = RunPaths(run).settings
    if not path.is_file():
        return ""
    with path.open(encoding="utf-8", errors="replace") as lines:
        return lines.readline().partition("preset:")[2].strip()


def _no_run(preset: str) -> str:
    of_preset = f" of preset {preset}" if preset else ""
    others = known_runs()
    listed = f" (there: {_names(others)})" if others else ""
    return f"there is no run{of_preset} in {RUNS}/{listed}: name one with run_dir=PATH, or {_START}"


def missing_run(folder: str) -> str:
    """The message for a run that does not exist, with the runs that do."""
    runs = known_runs()
    there = f"runs that exist: {_names(runs)}. Or {_START}" if runs else _START
    return f"there is no run in {shown_path(folder)}{similar_run(folder) or ':'} {there}"


def _instead_of_a_run(replaces: Sequence[str]) -> str:
    """The settings that replace what the command needs of a run, as the end of a message."""
    return f". It needs no run if {' or '.join(replaces)} is set" if replaces else ""


def _names(runs: Sequence[Path]) -> str:
    shown = ", ".join(shown_path(str(run)) for run in runs[:8])
    return shown + (f" and {len(runs) - 8} more" if len(runs) > 8 else "")


def shown_path(path: str) -> str:
    """A path as one line of a message: in quotes, with escapes, if it holds a line break or a control character."""
    return path if path.isprintable() else repr(path)

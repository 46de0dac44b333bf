"""`spatialt2i VERB [ACTION] [PRESET] [section.key=value ...]`: one verb a stage.

Heavy libraries are imported by the verb that needs them, so that a typing mistake is answered at once.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from conf import Settings, SettingsError, load, presets
from conf.rules import suggestion


@dataclass(frozen=True)
class Action:
    """One thing a verb can do. `command` is "module:function"; the function takes the Settings."""

    command: str
    help: str

    def run(self, settings: Settings) -> None:
        """Imports the command and runs it. Raises SystemExit with the exit code where a check failed."""
        module, function = self.command.split(":")
        getattr(importlib.import_module(module), function)(settings)


QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "TRANSFORMERS_VERBOSITY": "error", "DIFFUSERS_VERBOSITY": "error"}

_PREFERENCES, _REWARD = "pipelines.preferences.commands", "pipelines.reward.commands"
_REVIEW = "pipelines.preferences.review.commands"
_POLICY, _SCENES = "pipelines.policy.commands", "pipelines.pretrain.commands"
_OPERATIONS = "pipelines.operations.commands"

VERBS: dict[str, dict[str, Action]] = {
    "preferences": {
        "build": Action(f"{_PREFERENCES}:build", "write, perturb, paint, review and save preference pairs"),
        "triage": Action(f"{_REWARD}:triage", "a model says which pairs it doubts, for people to see those first"),
        "review": Action(f"{_REVIEW}:review", "serve a page where people check the pairs, until interrupted"),
        "to_label_studio": Action(f"{_REVIEW}:to_label_studio", "write the pairs that lack reviews as its tasks"),
        "from_label_studio": Action(f"{_REVIEW}:from_label_studio", "read its annotations back as votes"),
        "publish": Action(f"{_REVIEW}:publish", "write a versioned dataset folder: parquet, card, exports"),
        "report": Action(f"{_REVIEW}:report", "plots of what the pairs consist of, as one HTML file"),
    },
    "reward": {
        "train": Action(f"{_REWARD}:train", "fit SpatialScore on the run's pairs, then measure and examine it"),
        "evaluate": Action(f"{_REWARD}:evaluate", "pairwise accuracy on the held-out pairs"),
        "doctor": Action(f"{_REWARD}:doctor", "checks a reward model must pass before it may steer a policy"),
        "score": Action(f"{_REWARD}:score", "prompts.jsonl images/ --out scores.parquet: a whole folder of images"),
        "merge": Action(f"{_REWARD}:merge", "write the run's SpatialScore with its LoRA folded into the backbone"),
        "serve": Action(f"{_REWARD}:serve", "answer POST /score over HTTP until interrupted"),
    },
    "policy": {
        "train": Action(f"{_POLICY}:train", "top-k GRPO on FLUX with the run's SpatialScore; resumes by itself"),
        "export": Action(f"{_POLICY}:export", "write the newest checkpoint's LoRA in diffusers form"),
        "sample": Action(f"{_POLICY}:sample", "draw a text, given in quotes, by base and tuned policy side by side"),
    },
    "evaluate": {
        "run": Action("pipelines.evaluation.commands:run", "held-out prompts before and after: pictures, report.html")
    },
    "run": {"run": Action(f"{_OPERATIONS}:run", "all four stages as one job; what is complete is not done again")},
    "demo": {"run": Action(f"{_OPERATIONS}:run", "the same in minutes, on this machine, under runs/demo")},
    "submit": {
        "run": Action(f"{_OPERATIONS}:submit", "another verb as a job on a running cluster, followed to its end")
    },
    "status": {"run": Action(f"{_OPERATIONS}:status", "a run, live: learning, on-policy, waiting, rewards, failures")},
    "ablation": {
        "run": Action(
            "pipelines.operations.ablation.commands:run",
            "the paper's findings in small: variants of stage 3, one table",
        )
    },
    "doctor": {
        "run": Action("pipelines.operations.doctor:command", "is this machine ready? what is missing, and its mend")
    },
    "scenes": {
        "pretrain": Action(f"{_SCENES}:pretrain", "make the tiny checkpoints of the embedded world"),
        "check": Action(f"{_SCENES}:check", "measure the exact checker's own error rate"),
    },
}


def usage() -> str:
    """The help text: every verb with its actions, the first of which is the default."""
    named = [
        (verb if len(actions) == 1 else f"{verb} {name}", action.help)
        for verb, actions in VERBS.items()
        for name, action in actions.items()
    ]
    width = max(len(words) for words, _ in named)
    lines = ["spatialt2i VERB [ACTION] [PRESET] [section.key=value ...]", ""]
    lines += [f"  {words:<{width}}  {told}" for words, told in named]
    lines += ["", f"presets: {', '.join(presets())} (default scenes), or a YAML file; settings: conf/*.py"]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Console entry. Returns the exit code: 0 done, 1 a check failed, 2 the command or a setting is wrong."""
    parser = argparse.ArgumentParser(prog="spatialt2i", usage=usage(), add_help=False)
    parser.add_argument("words", nargs="*")
    parser.add_argument("--out")
    parser.add_argument("-h", "--help", action="store_true")
    parsed = parser.parse_intermixed_args(arguments)
    if parsed.help or not parsed.words:
        print(usage())
        return 0
    try:
        action, settings = understand(parsed.words if parsed.out is None else [*parsed.words, f"--out={parsed.out}"])
    except SettingsError as error:
        print(f"spatialt2i: {error}", file=sys.stderr)
        return 2
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    action.run(settings)
    return 0


def understand(words: Sequence[str]) -> tuple[Action, Settings]:
    """Command words -> what to run with which settings. Raises SettingsError with a suggestion for what is unknown."""
    verb, *rest = words
    if verb not in VERBS:
        raise SettingsError(f"no verb {verb!r}{suggestion(verb, list(VERBS))} (have: {', '.join(VERBS)})")
    actions = VERBS[verb]
    if verb == "submit":
        return actions["run"], _submission(rest)
    name = rest.pop(0) if rest and rest[0] in actions else next(iter(actions))
    if (verb, name) == ("reward", "score"):
        rest = _score_words(rest)
    else:
        rest = [f"sample.text={json.dumps(word)}" if " " in word and "=" not in word else word for word in rest]
    preset = rest.pop(0) if rest and "=" not in rest[0] else "scenes"
    known = preset in presets() or preset.endswith((".yaml", ".yml"))
    if not known:
        near = suggestion(preset, [*actions, *presets()])
        raise SettingsError(f"{preset!r} is neither an action of {verb} ({', '.join(actions)}) nor a preset{near}")
    if verb in ("demo", "ablation"):  # an ablation is steered by the demo's SpatialScore
        rest = ["run_dir=runs/demo", *rest]
    return actions[name], load(preset, rest)


def _score_words(words: Sequence[str]) -> list[str]:
    """`reward score`'s own words as settings: the file of prompts, the folder of images, and --out."""
    names, own, others = ["score.prompts", "score.images"], [], []
    for word in words:
        name = "score.out" if word.startswith("--out=") else None
        is_preset = word in presets() or word.endswith((".yaml", ".yml"))
        if not name and "=" not in word and not is_preset and names:
            name = names.pop(0)
        if name:
            own.append(f"{name}={json.dumps(word.removeprefix('--out='))}")
        else:
            others.append(word)
    return [*sorted(others, key=lambda word: "=" in word), *own]  # a preset comes first


def _submission(words: Sequence[str]) -> Settings:
    """The words after `submit` -> settings that hold them as the job's command. They must be a command themselves."""
    if not words:
        raise SettingsError("submit needs the command to run on the cluster, e.g. submit policy train flux_dev")
    _, settings = understand(words)
    if not Path(settings.run_dir).is_absolute():
        raise SettingsError(
            f"run_dir of a submitted job must be an absolute path that every node sees, got {settings.run_dir}: what a "
            f"job leaves in its own folder is lost. Add run_dir=/shared/{Path(settings.run_dir).name}"
        )
    saved = settings.policy.checkpoint_dir
    if saved and "://" not in saved and not Path(saved).is_absolute():
        raise SettingsError(
            f"policy.checkpoint_dir of a submitted job must be a URI or an absolute path that every node sees, got "
            f"{saved}: take /shared/{Path(saved).name}, or leave it out to save beside the run"
        )
    command = shlex.join(["spatialt2i", *(word for word in words if not word.startswith("submit."))])
    return replace(settings, submit=replace(settings.submit, command=command))


if __name__ == "__main__":
    sys.exit(main())

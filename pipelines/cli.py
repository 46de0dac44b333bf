"""`spatialt2i VERB [ACTION] [PRESET] [section.key=value ...]`: one verb a stage.

Heavy libraries are imported by the verb that needs them, so that a typing mistake is answered at once.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from conf import Settings, SettingsError, load, presets
from conf.rules import suggestion


@dataclass(frozen=True)
class Action:
    """One thing a verb can do."""

    run: Callable[[Settings], None]
    help: str


def _preferences_build(settings: Settings) -> None:
    from pipelines.cluster import cluster
    from pipelines.preferences.build import build_preferences

    with cluster(settings):
        print(build_preferences(settings))


def _reward_train(settings: Settings) -> None:
    from pipelines.cluster import cluster
    from pipelines.reward.evaluate import evaluate_reward, table
    from pipelines.reward.train import train_reward

    with cluster(settings):
        print(train_reward(settings))
        print(table(evaluate_reward(settings)))


def _reward_evaluate(settings: Settings) -> None:
    from pipelines.cluster import cluster
    from pipelines.reward.evaluate import evaluate_reward, table

    with cluster(settings):
        print(table(evaluate_reward(settings)))


def _reward_doctor(settings: Settings) -> None:
    from pipelines.cluster import cluster
    from pipelines.reward.doctor import run_doctor, table

    with cluster(settings):
        checks = run_doctor(settings)
    print(table(checks))
    if not all(check.passed for check in checks):
        raise SystemExit(1)


def _reward_serve(settings: Settings) -> None:
    from pipelines.cluster import cluster
    from pipelines.reward.serve import serve_reward

    with cluster(settings):
        serve_reward(settings)


def _policy_train(settings: Settings) -> None:
    from pipelines.cluster import cluster
    from pipelines.policy.stage import run_policy

    with cluster(settings):
        print(run_policy(settings))


def _policy_export(settings: Settings) -> None:
    from pipelines.policy.export import export_newest

    print(f"wrote {export_newest(settings)}")


def _policy_sample(settings: Settings) -> None:
    from pipelines.policy.sample import sample_sheet

    print(f"wrote {sample_sheet(settings)}")


def _evaluate(settings: Settings) -> None:
    from pipelines.cluster import cluster
    from pipelines.evaluation.run import evaluate

    with cluster(settings):
        print(evaluate(settings))


def _demo(settings: Settings) -> None:
    from pipelines.cluster import cluster
    from pipelines.demo import demo

    with cluster(settings):
        demo(settings)


def _doctor(settings: Settings) -> None:
    from pipelines.doctor import examine

    if not examine(settings):
        raise SystemExit(1)


def _scenes_pretrain(settings: Settings) -> None:
    from pipelines.cluster import cluster
    from pipelines.scenes.pretrain import pretrain

    with cluster(settings):
        pretrain(settings.pretrain)


def _scenes_check(settings: Settings) -> None:
    from pipelines.scenes.error_rate import print_error_rates

    print_error_rates()


QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "TRANSFORMERS_VERBOSITY": "error", "DIFFUSERS_VERBOSITY": "error"}

VERBS: dict[str, dict[str, Action]] = {
    "preferences": {"build": Action(_preferences_build, "write, perturb, paint, review and save preference pairs")},
    "reward": {
        "train": Action(_reward_train, "fit SpatialScore on the run's pairs and measure it on held-out ones"),
        "evaluate": Action(_reward_evaluate, "pairwise accuracy on the held-out pairs"),
        "doctor": Action(_reward_doctor, "checks a reward model must pass before it may steer a policy"),
        "serve": Action(_reward_serve, "answer POST /score over HTTP until interrupted"),
    },
    "policy": {
        "train": Action(_policy_train, "top-k GRPO on FLUX with the run's SpatialScore; resumes by itself"),
        "export": Action(_policy_export, "write the newest checkpoint's LoRA in diffusers form"),
        "sample": Action(_policy_sample, "draw a text, given in quotes, by base and tuned policy side by side"),
    },
    "evaluate": {"run": Action(_evaluate, "held-out prompts before and after: pictures, scores, report.html")},
    "demo": {"run": Action(_demo, "all four stages, in minutes, on this machine")},
    "doctor": {"run": Action(_doctor, "is this machine ready for the preset? what is missing, and its mend")},
    "scenes": {
        "pretrain": Action(_scenes_pretrain, "make the tiny checkpoints of the embedded world"),
        "check": Action(_scenes_check, "measure the exact checker's own error rate"),
    },
}


def usage() -> str:
    """The help text: every verb with its actions, the first of which is the default."""
    lines = ["spatialt2i VERB [ACTION] [PRESET] [section.key=value ...]", ""]
    for verb, actions in VERBS.items():
        for name, action in actions.items():
            words = verb if len(actions) == 1 else f"{verb} {name}"
            lines.append(f"  {words:<20} {action.help}")
    lines += ["", f"presets: {', '.join(presets())} (default scenes), or a YAML file; settings: conf/settings.py"]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Console entry. Returns the exit code: 0 done, 1 a check failed, 2 the command or a setting is wrong."""
    parser = argparse.ArgumentParser(prog="spatialt2i", usage=usage(), add_help=False)
    parser.add_argument("words", nargs="*")
    parser.add_argument("-h", "--help", action="store_true")
    parsed = parser.parse_args(arguments)
    if parsed.help or not parsed.words:
        print(usage())
        return 0
    try:
        action, settings = understand(parsed.words)
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
    rest = [f"sample.text={json.dumps(word)}" if " " in word and "=" not in word else word for word in rest]
    name = rest.pop(0) if rest and rest[0] in actions else next(iter(actions))
    preset = rest.pop(0) if rest and "=" not in rest[0] else "scenes"
    known = preset in presets() or preset.endswith((".yaml", ".yml"))
    if not known:
        near = suggestion(preset, [*actions, *presets()])
        raise SettingsError(f"{preset!r} is neither an action of {verb} ({', '.join(actions)}) nor a preset{near}")
    if verb == "demo":
        rest = ["run_dir=runs/demo", *rest]
    return actions[name], load(preset, rest)

"""The rules of `policy.evaluation.best_by`: somebody must measure what versions are compared by."""

from __future__ import annotations

from collections.abc import Collection

from conf.errors import SettingsError
from conf.policy import EXACT, STATISTICS, TrainEvaluationSettings
from conf.rewards import is_name
from conf.rules import suggestion


def check_best_by(evaluation: TrainEvaluationSettings, rewards: Collection[str], embedded: bool) -> None:
    """Raises SettingsError if no evaluation of the run measures `best_by`, or a reward has the name of a measure.

    `rewards`: names of the run's rewards, with those that are only watched. `embedded`: the scenes world.
    """
    by, setting = evaluation.best_by, f"policy.evaluation.best_by={evaluation.best_by}"
    taken = {"reward", *EXACT, *STATISTICS}.intersection(rewards)
    if taken:
        raise SettingsError(f"rewards.{min(taken)} has the name of another measure of held-out images: rename it")
    if by in EXACT and not embedded:
        raise SettingsError(
            f"{setting} needs the exact checker of the scenes world, and flux.model names another model: use "
            "policy.evaluation.best_by=reward"
        )
    if by == "diversity" and not evaluation.diversity_prompts:
        raise SettingsError(f"{setting} needs second images: set policy.evaluation.diversity_prompts=24")
    others = list(rewards) if len(rewards) > 1 else []  # one alone is the trained reward
    known = ["reward", *others, *STATISTICS, *(EXACT if embedded else ())]
    if by not in known:
        near = suggestion(by, known).removeprefix(": ")
        watched = f", or watch a reward of that name with rewards.{by}.weight=0" if is_name(by) else ""
        raise SettingsError(
            f"{setting} is measured by nobody: {near and near + ' '}use one of {', '.join(known)}{watched}"
        )
    if by != "reward" and not evaluation.every:
        raise SettingsError(
            f"{setting} needs evaluations during training, got policy.evaluation.every=0: set e.g. "
            "policy.evaluation.every=20, or leave best_by out"
        )

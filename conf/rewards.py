"""What the policy is rewarded for: named rewards, and the judge behind an endpoint."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Literal, get_args

from conf.endpoints import ChatSettings
from conf.errors import SettingsError
from conf.rules import at_least, check_fields, one_of

RewardKind = Literal["", "spatialscore", "rules", "judge", "detector"]
"""What computes a reward. "": the kind that the reward is named after."""

KINDS = tuple(kind for kind in get_args(RewardKind) if kind)

KINDS_WITH_A_SECTION: Mapping[str, str] = {
    "spatialscore": "serving",
    "rules": "",
    "judge": "judge",
    "detector": "detector",
}
"""Kinds of which a run has one reward at most -> the section of their settings ("": they have none)."""

_NAME = re.compile(r"[a-z][a-z0-9_]*")


@dataclass(frozen=True)
class RewardTerm:
    """The rewards by name. A run is rewarded for the sum of those with a weight, and watches those without one.

    rewards.NAME=0.5 is short for rewards.NAME.weight=0.5, and rewards.NAME=0 leaves a reward out. See docs/rewards.md.
    """

    section: ClassVar[str] = "rewards"

    kind: RewardKind = ""
    """What computes the reward. Empty: the kind that it is named after."""

    weight: float = field(default=0.0, metadata=at_least(0))
    """Weight in the training reward. 0: the reward is only watched, on held-out images."""

    at_least: float | None = None  # the last field: its name hides the function
    """Gate: an image with less of this reward gets the lowest training reward of its group. null: no gate."""

    @property
    def trains(self) -> bool:
        """Whether the training reward depends on it: by a weight, or by a gate."""
        return self.weight > 0 or self.at_least is not None

    def kind_of(self, name: str) -> str:
        """The kind of the reward with this name."""
        return self.kind or name

    def check(self, name: str) -> None:
        """Raises SettingsError for the first field that breaks its rule. `name`: of the reward."""
        if not _NAME.fullmatch(name) or name == "total":
            raise SettingsError(
                f"rewards: a name must be of small letters, digits and _, and not total, got {name!r}: rename it"
            )
        one_of(f"rewards.{name}.kind", self.kind_of(name), KINDS)
        if name in KINDS and self.kind_of(name) != name:
            raise SettingsError(f"rewards.{name} is named after a kind, got kind={self.kind}: choose another name")
        check_fields(self, lambda key: f"rewards.{name}.{key}")

    def given(self) -> dict[str, Any]:
        """The fields that differ from their defaults, and the weight."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        plain = type(self)()
        return {name: value for name, value in values.items() if name == "weight" or value != getattr(plain, name)}

    def deciding(self) -> dict[str, Any]:
        """The given fields, without the weight, that decide the training reward."""
        return {name: value for name, value in self.given().items() if name != "weight"}


Rewards = dict[str, RewardTerm | None]
"""Name -> reward; None: left out, although a preset has it."""


def check_rewards(rewards: Rewards) -> None:
    """Raises SettingsError for a reward that breaks a rule, or if no reward has a weight."""
    kinds: dict[str, str] = {}
    for name, term in rewards.items():
        if term is None:
            continue
        term.check(name)
        kind = term.kind_of(name)
        if kind in kinds and kind in KINDS_WITH_A_SECTION:
            raise SettingsError(
                f"rewards.{name}.kind={kind} is the kind of rewards.{kinds[kind]} too, and a run has one such reward: "
                f"leave one out, e.g. rewards.{name}=0"
            )
        kinds[kind] = name
    if not any(term and term.weight for term in rewards.values()):
        raise SettingsError("rewards needs a reward whose weight is not 0, e.g. rewards.spatialscore=1")


@dataclass(frozen=True)
class JudgeSettings(ChatSettings):
    """The judge: a vision-language model behind an OpenAI-compatible endpoint."""

    section: ClassVar[str] = "judge"

    runtime_env: dict[str, Any] = field(default_factory=dict[str, Any])
    """Ray runtime environment of the judge's client: pip, env_vars and so on."""

"""What the policy is rewarded for, and the judge behind an endpoint."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from conf.endpoints import ChatSettings
from conf.errors import SettingsError
from conf.rules import Section, at_least


@dataclass(frozen=True)
class RewardWeights(Section):
    """The reward is the sum of these rewards times their weights. A weight of 0 leaves a reward out."""

    section: ClassVar[str] = "rewards"

    spatialscore: float = field(default=1.0, metadata=at_least(0))
    """Weight of the run's SpatialScore (its mu)."""

    rules: float = field(default=0.0, metadata=at_least(0))
    """Weight of the exact checker: fraction of objects and relations that it finds, 0 to 1. Scenes world only."""

    judge: float = field(default=0.0, metadata=at_least(0))
    """Weight of the grade that a vision-language model gives, 0 to 10. Section judge."""

    detector: float = field(default=0.0, metadata=at_least(0))
    """Weight of the fraction of objects and relations that a detector finds, 0 to 1. Section detector."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not any((self.spatialscore, self.rules, self.judge, self.detector)):
            raise SettingsError("rewards needs a reward whose weight is not 0, e.g. rewards.spatialscore=1")


@dataclass(frozen=True)
class JudgeSettings(ChatSettings):
    """The judge: a vision-language model behind an OpenAI-compatible endpoint."""

    section: ClassVar[str] = "judge"

    runtime_env: dict[str, Any] = field(default_factory=dict[str, Any])
    """Ray runtime environment of the judge's client: pip, env_vars and so on."""

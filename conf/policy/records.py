"""`policy.evaluation` and `policy.checkpoint`: what a training run measures and saves on the way."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from conf.errors import SettingsError
from conf.rules import Section, at_least

BestBy = Literal["reward", "relations"]
"""How versions are compared on held-out prompts."""


@dataclass(frozen=True)
class TrainEvaluationSettings(Section):
    """Evaluation on held-out prompts during training."""

    section: ClassVar[str] = "policy.evaluation"

    every: int = field(default=10, metadata=at_least(0))
    """Iterations between evaluations. 0: never."""

    prompts: int = field(default=96, metadata=at_least(0))
    """Held-out prompts of an evaluation, half of them with several relations; one image each. Must be even."""

    best_by: BestBy = "reward"
    """What makes a version the best one, whose checkpoint is never deleted: its mean reward on held-out prompts, or its
    fraction of correct relations by the exact checker, which only the scenes world has."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.prompts % 2:
            raise SettingsError(
                f"policy.evaluation.prompts must be even, got {self.prompts}: half of them have several relations"
            )


@dataclass(frozen=True)
class CheckpointSettings(Section):
    """Checkpoints of the learner."""

    section: ClassVar[str] = "policy.checkpoint"

    every: int = field(default=1, metadata=at_least(1))
    """Iterations between checkpoints."""

    dir: str = ""
    """Folder: a path, or a URI that pyarrow.fs supports. Empty: <run_dir>/policy/checkpoints."""

    keep: int = field(default=3, metadata=at_least(1))
    """Newest checkpoints that are kept. Older ones are deleted, except that of the best version."""

    keep_every: int = field(default=0, metadata=at_least(0))
    """Checkpoints whose version is a multiple of this are never deleted. 0: none."""

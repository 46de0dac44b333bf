"""`policy.evaluation` and `policy.checkpoint`: what a training run measures and saves on the way."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from conf.errors import SettingsError
from conf.rules import Section, at_least

IMAGE_STATISTICS = ("edge_density", "color_entropy", "saturation", "sharpness")
"""Statistics of one image."""
STATISTICS = (*IMAGE_STATISTICS, "diversity")
"""Statistics of held-out images; the diversity is one of two images of a prompt."""
EXACT = ("relations", "fully_correct")
"""What only the exact checker of the scenes world measures."""


@dataclass(frozen=True)
class TrainEvaluationSettings(Section):
    """Evaluation on held-out prompts during training."""

    section: ClassVar[str] = "policy.evaluation"

    every: int = field(default=10, metadata=at_least(0))
    """Iterations between evaluations. 0: never."""

    prompts: int = field(default=96, metadata=at_least(0))
    """Held-out prompts of an evaluation, half of them with several relations; one image each. Must be even."""

    diversity_prompts: int = field(default=24, metadata=at_least(0))
    """Held-out prompts that get a second image, with another seed, so that the diversity of a prompt's images is known.
    0: diversity is not measured. Must be even."""

    best_by: str = "reward"
    """What makes a version the best one, whose checkpoint is never deleted: its mean on held-out prompts of `reward`,
    the trained one; of another reward of the run, by name; of edge_density, color_entropy, saturation, sharpness or
    diversity; or, in the scenes world, of relations or fully_correct by the exact checker."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, count in (("prompts", self.prompts), ("diversity_prompts", self.diversity_prompts)):
            if count % 2:
                raise SettingsError(
                    f"policy.evaluation.{name} must be even, got {count}: half of them have several relations"
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

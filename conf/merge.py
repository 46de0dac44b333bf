"""`merge`: how a LoRA is merged into the weights of its model."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from conf.rules import Dtype, Section, between


@dataclass(frozen=True)
class MergeSettings(Section):
    """Merging a LoRA (`reward merge`, and `policy export` with `export.merged`)."""

    section: ClassVar[str] = "merge"

    dtype: Dtype = "float32"
    """Of the merged weights. bfloat16 halves the files, but rounds away a part of what was trained."""

    max_loss: float = field(default=0.05, metadata=between(0, 1))
    """Part of the trained change that rounding may lose. A merge that loses more is refused."""

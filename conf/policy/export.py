"""`export`: which version of a trained policy is used, and what is written from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from conf.errors import SettingsError
from conf.rules import Section


@dataclass(frozen=True)
class ExportSettings(Section):
    """The version that `policy export`, `policy sample` and `evaluate` use, and what an export holds."""

    section: ClassVar[str] = "export"

    version: str = "newest"
    """Policy version: newest; best on held-out prompts by policy.evaluation.best_by; or the number of a version whose
    checkpoint exists."""

    merged: bool = False
    """Also write the whole model with the LoRA merged into its weights, to <run_dir>/policy/merged."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.version not in ("newest", "best") and not (self.version.isdecimal() and int(self.version)):
            raise SettingsError(
                f"export.version must be newest, best or the number of a policy version, got {self.version!r}"
            )

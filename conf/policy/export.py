"""`export`: what is written from a trained policy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from conf.rules import Section


@dataclass(frozen=True)
class ExportSettings(Section):
    """What a finished run and `policy export` write in addition to the LoRA."""

    section: ClassVar[str] = "export"

    merged: bool = False
    """Also write the whole model with the LoRA merged into its weights, to <run_dir>/policy/merged."""

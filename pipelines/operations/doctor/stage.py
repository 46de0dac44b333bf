"""Which stage `spatialt2i doctor` checks for: all of a preset, or one that is named."""

from __future__ import annotations

from conf import Settings
from conf.operations import Stage


def checks_for(settings: Settings, *stages: Stage) -> bool:
    """Whether a check of what `stages` need belongs to this call."""
    return settings.doctor.stage in ("all", *stages)

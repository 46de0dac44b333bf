"""What an alert rule consists of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

PROGRESS_TIME = "ray_spatialt2i_run_progress_time_seconds"
"""Gauge: Unix time of the newest policy version, or of the driver's start."""


@dataclass(frozen=True)
class Alert:
    """One alert rule."""

    name: str
    expression: str
    """PromQL; has a result while something is wrong."""
    minutes: int
    """The expression must have a result for this long."""
    severity: Literal["critical", "warning"]
    """critical: the run is lost or makes no progress. warning: look at it today."""
    summary: str
    """What happened. {{ $labels.run }} and {{ $value }} are filled in by Prometheus."""
    fix: str
    """What to do."""

"""A SpatialScore behind a running reward pool."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from actors.spatialscore.calibration import ScoreCalibration
from actors.workers.reward import RewardPool

TOKEN_VARIABLE = "SPATIALT2I_TEST_TOKEN"
"""Environment variable that holds the token of the pool's HTTP service."""
CALIBRATION = ScoreCalibration(temperature=0.5, error=0.02)
"""Of the served model."""


@dataclass(frozen=True)
class ServedModel:
    """A pool of two replicas that also answers HTTP."""

    pool: RewardPool
    model: Path
    port: int
    token: str

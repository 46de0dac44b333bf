"""The job that stage 2's driver gives to every Ray Train worker."""

from __future__ import annotations

from dataclasses import dataclass

from actors.spatialscore import SpatialScoreConfig
from conf.reward import RewardSettings
from pipelines.reward.sampler import PairSampler


@dataclass(frozen=True)
class WorkerJob:
    """A fit of SpatialScore. Equal jobs are one fit, which a restart resumes."""

    settings: RewardSettings
    config: SpatialScoreConfig
    gradient_checkpointing: bool
    include_backbone: bool  # whether the finished directory holds the backbone
    sampler: PairSampler
    run_dir: str  # absolute

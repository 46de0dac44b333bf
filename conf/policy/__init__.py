"""Stage 3: top-k GRPO on a text-to-image model. One module for each part of `policy`."""

from conf.policy.algorithm import AlgorithmSettings
from conf.policy.export import ExportSettings
from conf.policy.nft import NftSettings
from conf.policy.optimizer import PolicyOptimizerSettings
from conf.policy.placement import LearnerSettings, RolloutSettings
from conf.policy.records import EXACT, IMAGE_STATISTICS, STATISTICS, CheckpointSettings, TrainEvaluationSettings
from conf.policy.sampling import SamplingSettings
from conf.policy.settings import PolicySettings

__all__ = [
    "EXACT",
    "IMAGE_STATISTICS",
    "STATISTICS",
    "AlgorithmSettings",
    "CheckpointSettings",
    "ExportSettings",
    "LearnerSettings",
    "NftSettings",
    "PolicyOptimizerSettings",
    "PolicySettings",
    "RolloutSettings",
    "SamplingSettings",
    "TrainEvaluationSettings",
]

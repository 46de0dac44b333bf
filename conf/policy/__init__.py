"""Stage 3: top-k GRPO on a text-to-image model. One module for each part of `policy`."""

from conf.policy.algorithm import AlgorithmSettings
from conf.policy.export import ExportSettings
from conf.policy.nft import NftSettings
from conf.policy.optimizer import PolicyOptimizerSettings
from conf.policy.placement import LearnerSettings, RolloutSettings
from conf.policy.records import BestBy, CheckpointSettings, TrainEvaluationSettings
from conf.policy.sampling import SamplingSettings
from conf.policy.settings import PolicySettings

__all__ = [
    "AlgorithmSettings",
    "BestBy",
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

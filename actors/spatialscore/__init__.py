"""SpatialScore, the reward model: Qwen2.5-VL with LoRA, read at a `<reward>` token. Tensors only, no Ray."""

from actors.spatialscore.config import SpatialScoreConfig
from actors.spatialscore.loading import build, load
from actors.spatialscore.losses import LossName, pair_loss
from actors.spatialscore.model import SpatialScore
from actors.spatialscore.processor import ScoreBatch, ScoreProcessor
from actors.spatialscore.prompt import REWARD_TOKEN, PromptTemplate
from actors.spatialscore.scorer import SpatialScorer

__all__ = [
    "REWARD_TOKEN",
    "LossName",
    "PromptTemplate",
    "ScoreBatch",
    "ScoreProcessor",
    "SpatialScore",
    "SpatialScoreConfig",
    "SpatialScorer",
    "build",
    "load",
    "pair_loss",
]

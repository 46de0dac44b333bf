"""SpatialScore, the reward model: Qwen2.5-VL with LoRA and a `<reward>` token. Pure tensors, no Ray."""

from actors.spatialscore.losses import pair_loss
from actors.spatialscore.model import SpatialScore, SpatialScoreConfig, build, load
from actors.spatialscore.processor import ScoreBatch, ScoreProcessor
from actors.spatialscore.prompt import REWARD_TOKEN, PromptTemplate
from actors.spatialscore.scorer import SpatialScorer

__all__ = [
    "REWARD_TOKEN",
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

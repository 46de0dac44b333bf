"""SpatialScore, the reward model: Qwen2.5-VL with LoRA, read at a `<reward>` token. Tensors only, no Ray."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from actors.spatialscore.config import SpatialScoreConfig

if TYPE_CHECKING:
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

_MODULES = {
    "REWARD_TOKEN": "prompt",
    "LossName": "losses",
    "PromptTemplate": "prompt",
    "ScoreBatch": "processor",
    "ScoreProcessor": "processor",
    "SpatialScore": "model",
    "SpatialScorer": "scorer",
    "build": "loading",
    "load": "loading",
    "pair_loss": "losses",
}
"""Name -> its module. They are imported at their first use, so that `config` can be read without torch."""


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)

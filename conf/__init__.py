"""Typed settings and YAML presets. Imports nothing else of this project, no torch and no ray."""

from conf.evaluation import EvaluationSettings
from conf.flux import FluxSettings
from conf.load import SettingsError, dump, load, presets
from conf.policy import PolicySettings
from conf.preferences import PreferencesSettings
from conf.reward import RewardPoolSettings, RewardSettings, SpatialScoreSettings
from conf.scenes import PretrainSettings
from conf.settings import Settings

__all__ = [
    "EvaluationSettings",
    "FluxSettings",
    "PolicySettings",
    "PreferencesSettings",
    "PretrainSettings",
    "RewardPoolSettings",
    "RewardSettings",
    "Settings",
    "SettingsError",
    "SpatialScoreSettings",
    "dump",
    "load",
    "presets",
]

"""Typed settings and YAML presets. Imports nothing else of this project, no torch and no ray."""

from conf.load import SettingsError, dump, load, presets
from conf.settings import (
    EvaluationSettings,
    FluxSettings,
    PolicySettings,
    PreferencesSettings,
    PretrainSettings,
    RewardPoolSettings,
    RewardSettings,
    Settings,
    SpatialScoreSettings,
)

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

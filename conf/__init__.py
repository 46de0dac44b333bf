"""Typed settings and YAML presets. Imports nothing else of this project, no torch and no ray."""

from conf.errors import SettingsError, UserError
from conf.evaluation import EvaluationSettings
from conf.flux import FluxSettings
from conf.layers import presets
from conf.load import Resolved, dump, load, load_recorded, resolve
from conf.policy import PolicySettings
from conf.preferences import PreferencesSettings
from conf.pretrain import PretrainSettings
from conf.reward import RewardSettings, SpatialScoreSettings
from conf.serving import ServingSettings
from conf.settings import Settings

__all__ = [
    "EvaluationSettings",
    "FluxSettings",
    "PolicySettings",
    "PreferencesSettings",
    "PretrainSettings",
    "Resolved",
    "RewardSettings",
    "ServingSettings",
    "Settings",
    "SettingsError",
    "SpatialScoreSettings",
    "UserError",
    "dump",
    "load",
    "load_recorded",
    "presets",
    "resolve",
]

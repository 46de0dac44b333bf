"""The setting `rewards` as a preset or the command line gives it: short forms, and mistakes that are explained."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from conf.catalog import REWARDS, reward_fields
from conf.errors import SettingsError
from conf.rewards import RewardTerm
from conf.rules import suggestion


def read_rewards(value: object, source: str) -> dict[str, Any]:
    """Name -> the given settings of a reward, from the value of `rewards` in a preset, or from one word.

    A number stands for {weight: number}, and 0 or null for None, which leaves the reward out. `source` starts every
    message. Raises SettingsError for another value, and for an unknown setting or one of the wrong type.
    """
    if not isinstance(value, Mapping):
        raise SettingsError(f"{source}: rewards is a section, got {value!r}: set a key inside it, e.g. {_EXAMPLE}")
    return {name: _entry(str(name), entry, source) for name, entry in cast("Mapping[Any, Any]", value).items()}


_EXAMPLE = "rewards.spatialscore=1"


def _entry(name: str, entry: object, source: str) -> dict[str, Any] | None:
    key = f"{REWARDS}.{name}"
    if isinstance(entry, (int, float)) and not isinstance(entry, bool):
        return _checked(key, {"weight": entry}, source) if entry else None
    if entry is None:
        return None
    if not isinstance(entry, Mapping):
        raise SettingsError(f"{source}: {key} must be a weight, or the settings of a reward, got {entry!r}")
    return _checked(key, cast("dict[str, Any]", entry), source)


def _checked(key: str, entry: dict[str, Any], source: str) -> dict[str, Any]:
    """The settings of one reward. Raises SettingsError for an unknown one and for one of the wrong type."""
    for name, value in entry.items():
        if name not in reward_fields():
            near = suggestion(name, list(reward_fields())) or f" (settings of a reward: {', '.join(reward_fields())})"
            raise SettingsError(f"{source}: no setting '{key}.{name}'{near.replace('mean ', f'mean {key}.')}")
        if isinstance(value, str) and "${" in value:
            continue  # an interpolation: checked when it is resolved
        try:
            OmegaConf.merge(OmegaConf.structured(RewardTerm), {name: value})
        except OmegaConfBaseException as error:
            kind = reward_fields()[name].type_name
            raise SettingsError(f"{source}: {key}.{name} must be of type {kind}, got {value!r}") from error
    return entry

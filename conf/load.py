"""Preset + command-line overrides -> checked `Settings`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from conf.rules import suggestion
from conf.settings import Settings

PRESET_DIR = Path(__file__).parent


class SettingsError(ValueError):
    """A setting that is unknown, ill-typed or out of its range. Its text names the rule, the value and the mend."""


def presets() -> list[str]:
    """Names of the shipped presets."""
    return sorted(path.stem for path in PRESET_DIR.glob("*.yaml"))


def load(preset: str = "scenes", overrides: Sequence[str] = ()) -> Settings:
    """Resolves a preset (a shipped name or a YAML file) with `section.key=value` overrides on top.

    A preset that says `base: name` holds differences from that preset.

    Raises SettingsError for an unknown preset or key, a value of the wrong type, or one out of its range.
    """
    path = Path(preset) if preset.endswith((".yaml", ".yml")) else PRESET_DIR / f"{preset}.yaml"
    if not path.is_file():
        raise SettingsError(f"no preset {preset!r}{suggestion(preset, presets())} (have: {', '.join(presets())})")
    for item in overrides:
        if "=" not in item:
            raise SettingsError(f"an override must read section.key=value, got {item!r}")
    try:
        merged = OmegaConf.merge(
            OmegaConf.structured(Settings), *_layers(path), OmegaConf.from_dotlist(list(overrides))
        )
        return cast(Settings, OmegaConf.to_object(merged))
    except OmegaConfBaseException as error:
        raise SettingsError(f"{path.name}: {_rule_of(error, overrides)}") from error
    except ValueError as error:
        raise SettingsError(f"{path.name}: {error}") from error


def _rule_of(error: OmegaConfBaseException, overrides: Sequence[str]) -> str:
    """OmegaConf's first line and where it happened; for a list that was not written as one, how to write it."""
    key, first_line = str(getattr(error, "full_key", None) or ""), str(error).splitlines()[0]
    given = dict(item.split("=", 1) for item in overrides).get(key)
    if given and "is not a TupleConfig, ListConfig" in first_line:
        return f"{key} is a list, got {given!r}: write '{key}=[{given}]', in quotes"
    return first_line + (f" (at {key})" if key else "")


def _layers(path: Path) -> list[DictConfig | ListConfig]:
    """A preset's file under that of its base, if it names one, and so on down."""
    own = cast(DictConfig, OmegaConf.load(path))
    own.preset = own.get("preset", path.stem)
    base = own.pop("base", None)
    if base is None:
        return [own]
    if base not in presets():
        raise SettingsError(f"{path.name}: base must be a preset{suggestion(str(base), presets())}, got {base!r}")
    return [*_layers(PRESET_DIR / f"{base}.yaml"), own]


def dump(settings: Settings, path: Path) -> None:
    """Writes the resolved settings as YAML that `load` reads back to an equal value."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(OmegaConf.to_yaml(OmegaConf.structured(settings)))
    partial.replace(path)

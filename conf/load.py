"""Preset + command-line overrides -> checked `Settings`, and where each value comes from."""

from __future__ import annotations

import contextlib
import os
import pickle
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from conf.catalog import REWARDS, Setting, catalog
from conf.errors import SettingsError
from conf.layers import FREE_TEXTS, Layer, override_layer, preset_layers, presets
from conf.partial import partial_path
from conf.rules import one_of
from conf.settings import Settings
from conf.yaml_file import escape_interpolations

_HOME = re.compile(r"~[\w.-]*(/|$)")
DEFAULT = "default"
IMPLIED = "implied by the command"
OF_ONE_COMMAND = (
    "run_dir",
    "policy.resume",
    "export.version",
    "take_over",
    "sample",
    "play",
    "push",
    "score",
    "plan",
    "submit",
    "status",
    "config",
)
"""Settings and sections of a recorded `settings.yaml` that a later command does not take over. Where the file is says
which run it is; the others say what one command is to do."""
OF_THE_CLUSTER = ("ray_address", "num_cpus", "dashboard")
"""Settings that say where a command runs. A later command takes them from the recorded preset, not from the record:
that an earlier command ran on a cluster says nothing about this one."""
MISSING_VALUE = "???"
"""OmegaConf's mark of a value that is still to be given."""


@dataclass(frozen=True)
class Resolved:
    """Settings, and the source of each value."""

    settings: Settings
    sources: Mapping[str, str]
    """Dotted key -> "default", "preset NAME" or "command line"."""


def load(preset: str = "scenes", overrides: Sequence[str] = ()) -> Settings:
    """The settings of a preset (a shipped name or a YAML file) with `section.key=value` overrides on top.

    A preset with the key `base` holds differences from that preset: a shipped name, or a YAML file beside it.

    Raises SettingsError for an unknown preset or key, a value of the wrong type, or one out of its range.
    """
    return resolve(preset, overrides).settings


def load_recorded(path: Path) -> Settings:
    """The settings that were recorded in a run directory. Raises SettingsError if the file cannot be used."""
    return resolve(recorded=path).settings


def resolve(
    preset: str = "scenes",
    overrides: Sequence[str] = (),
    implied: Sequence[str] = (),
    recorded: Path | None = None,
    unknown: list[str] | None = None,
) -> Resolved:
    """Like `load`, and tells where each value comes from. An error starts with the source of the wrong value.

    `implied` are overrides that the command itself implies; they win over the preset and lose to `overrides`.
    `recorded` is the `settings.yaml` of a run directory, which replaces the preset. Its keys that are no setting, or no
    longer one, are refused; if a list `unknown` is given, they are left out and added to it.
    """
    base = _recorded_layers(recorded, unknown) if recorded else preset_layers(preset)
    layers = [_at_home(layer) for layer in (*base, override_layer(implied, IMPLIED), override_layer(overrides))]
    sources = dict.fromkeys(catalog(), DEFAULT)
    merged = _defaults()
    for layer in layers:
        merged = _merge(merged, layer)
        sources |= dict.fromkeys(layer.values, layer.source.partition(" (base of")[0])
    try:
        return Resolved(cast(Settings, OmegaConf.to_object(merged)), sources)
    except OmegaConfBaseException as error:  # an interpolation that leads nowhere
        key = re.sub(r"\[.*", "", str(getattr(error, "full_key", None) or ""))
        raise SettingsError(f"{_source_of([key], layers)}{key}: {str(error).splitlines()[0]}") from error
    except SettingsError as error:
        raise SettingsError(f"{_source_of(keys_in(str(error)), layers)}{error}") from error


def given_value(key: str, preset: str, implied: Sequence[str], overrides: Sequence[str]) -> Any:
    """The value that the preset (if it is not ""), the command or its overrides give to a setting; None if none does.

    Raises SettingsError for layers that cannot be read.
    """
    base = preset_layers(preset) if preset else []
    layers = (*base, override_layer(implied, IMPLIED), override_layer(overrides))
    return next((_at_home(layer).values[key] for layer in reversed(layers) if key in layer.values), None)


def is_given(key: str, preset: str, overrides: Sequence[str]) -> bool:
    """Whether the preset (if it is not "") or an override sets a setting, or an entry like rewards.NAME, even to null.

    Raises SettingsError for layers that cannot be read.
    """
    base = preset_layers(preset) if preset else []
    mapping, _, entry = key.partition(".")
    return any(
        key in layer.values or entry in (layer.values.get(mapping) or {})
        for layer in (*base, override_layer(overrides))
    )


def _defaults() -> DictConfig:
    """A new configuration of the defaults, which may be changed in place."""
    return cast(DictConfig, pickle.loads(_pickled_defaults()))


@cache
def _pickled_defaults() -> bytes:
    """Made once, because OmegaConf takes ten times as long to make a configuration as to unpickle one."""
    return pickle.dumps(OmegaConf.structured(Settings))


def _at_home(layer: Layer) -> Layer:
    """The layer with ~ at the start of a path replaced by the user's home, as a shell does for a word of its own."""
    return Layer(
        layer.source,
        {
            key: os.path.expanduser(value) if isinstance(value, str) and _HOME.match(value) else value
            for key, value in layer.values.items()
        },
    )


def _recorded_layers(path: Path, unknown: list[str] | None) -> list[Layer]:
    """The layers of a recorded `settings.yaml`, without the values that belong to the one command that gave them."""
    try:
        layers = preset_layers(str(path), unknown)
    except SettingsError as error:
        reason = str(error).removeprefix("preset ")
        end = "" if reason.endswith("?") else "."
        raise SettingsError(
            f"{reason}{end} This file holds the settings of an earlier command in this run, maybe of another version: "
            "correct it, or name a preset, which is then used instead"
        ) from error
    kept = [
        Layer(str(path), {key: value for key, value in layer.values.items() if not _of_one_command(key)})
        for layer in layers
    ]
    preset = kept[-1].values.get("preset")
    return [*_where_it_runs(preset), *kept] if isinstance(preset, str) and preset in presets() else kept


def _where_it_runs(preset: str) -> list[Layer]:
    """The layers of a shipped preset, with only what they say about the cluster."""
    return [
        Layer(layer.source, {key: value for key, value in layer.values.items() if key in OF_THE_CLUSTER})
        for layer in preset_layers(preset)
    ]


def _of_one_command(key: str) -> bool:
    return key in OF_THE_CLUSTER or any(key == name or key.startswith(f"{name}.") for name in OF_ONE_COMMAND)


def _merge(config: DictConfig, layer: Layer) -> DictConfig:
    """Adds a layer to `config`, in place. Raises SettingsError for a value of the wrong type."""
    layer = Layer(layer.source, {key: _as_list(key, value) for key, value in layer.values.items()})
    for key, value in layer.values.items():
        _check(catalog()[key], value, layer.source)
    try:
        return cast(DictConfig, OmegaConf.unsafe_merge(config, _nested(layer.values)))
    except (OmegaConfBaseException, RecursionError):
        for key, value in layer.values.items():  # one at a time, to find out which value is wrong
            try:
                OmegaConf.unsafe_merge(_defaults(), _nested({key: value}))
            except (OmegaConfBaseException, RecursionError) as error:
                raise SettingsError(_wrong_type(catalog()[key], value, layer.source)) from error
        raise


def _as_list(key: str, value: object) -> object:
    """The value, as a list if one text stands for a list of texts."""
    if key in FREE_TEXTS and isinstance(value, str) and "${" not in value and value != MISSING_VALUE:
        return [value] if value else []
    return value


def _check(setting: Setting, value: object, source: str) -> None:
    """Raises SettingsError for mistakes that OmegaConf does not explain, or explains without a suggestion."""
    if value == MISSING_VALUE:
        raise SettingsError(f"{source}: {setting.key} has no value: replace ???")
    if isinstance(value, str) and "${" in value:
        return  # an interpolation: checked when it is resolved
    if setting.choices:
        try:
            one_of(setting.key, value, setting.choices)
        except SettingsError as error:
            raise SettingsError(f"{source}: {error}") from error
    if setting.is_list and isinstance(value, str):
        fix = f"write '{setting.key}=[{_with_commas(value)}]', in quotes"
        raise SettingsError(f"{source}: {setting.key} is a list, got {value!r}: {fix}")
    if setting.is_list and any(isinstance(item, (list, dict)) or item is None for item in _items(value)):
        raise SettingsError(_wrong_type(setting, value, source))


def _with_commas(text: str) -> str:
    """The items of a list that was written without brackets, with a comma between them."""
    return ",".join(filter(None, re.split(r"[\s,]+", text.strip("()"))))


def _items(value: object) -> list[Any]:
    return cast("list[Any]", value) if isinstance(value, list) else []


def _wrong_type(setting: Setting, value: object, source: str) -> str:
    article = "an" if setting.type_name[0] in "aeio" else "a"
    words = {None: "null", True: "true", False: "false"}  # as they are written in YAML
    shown = words[value] if value is None or isinstance(value, bool) else repr(value)
    return f"{source}: {setting.key} must be {article} {setting.type_name}, got {shown}"


def _nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted keys -> a dictionary of dictionaries."""
    root: dict[str, Any] = {}
    for key, value in values.items():
        *parents, name = key.split(".")
        section = root
        for parent in parents:
            section = section.setdefault(parent, {})
        section[name] = value
    return root


def keys_in(message: str) -> list[str]:
    """The settings that a message names."""
    words = re.findall(r"[a-z_][a-z0-9_]*(?:\.[a-z0-9_]+)*", message)
    return [REWARDS if word.startswith(f"{REWARDS}.") else word for word in words if _names_a_setting(word)]


def _names_a_setting(word: str) -> bool:
    return word in catalog() or word.startswith(f"{REWARDS}.")


def _source_of(keys: Sequence[str], layers: Sequence[Layer]) -> str:
    """'SOURCE: ' of the last layer that sets one of `keys` (or an entry of a section that is one); else ''."""
    for layer in reversed(layers):
        if any(name == key or name.startswith(f"{key}.") for name in layer.values for key in keys if key):
            return f"{layer.source}: "
    return ""


def dump(settings: Settings, path: Path) -> None:
    """Writes the resolved settings as YAML that `load` reads back to an equal value. Replaces the file atomically.

    `take_over` is not written: it is meant for one command. Raises SettingsError if the file cannot be written, or is
    not one that this function wrote.
    """
    if path.exists() and not is_recorded(path):
        raise SettingsError(f"{path} was not written by spatialt2i and would be replaced: rename it, or change run_dir")
    partial = Path(partial_path(str(path)))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(settings_yaml(replace(settings, take_over=False)), encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise SettingsError(
            f"run_dir must be a folder that can be written, got {settings.run_dir}: {error.strerror}"
        ) from error


def settings_yaml(settings: Settings) -> str:
    """The settings as YAML that `load` reads back to an equal value."""
    return OmegaConf.to_yaml(OmegaConf.create(escape_interpolations(asdict(settings))))


def is_recorded(path: Path) -> bool:
    """Whether a file looks like one that `dump` wrote, and not like a preset or the settings of another program."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return False
    return all(re.search(f"^{key}:", text, re.MULTILINE) for key in ("preset", "run_dir", "policy", "flux"))

"""What every setting `runtime_env` must be. Ray itself checks it only while a job starts, and ignores unknown keys."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from conf.errors import SettingsError

PUBLIC_KEYS = (
    "pip",
    "uv",
    "conda",
    "env_vars",
    "working_dir",
    "py_modules",
    "py_executable",
    "excludes",
    "image_uri",
    "container",
    "config",
    "java_jars",
    "worker_process_setup_hook",
)
_INSTALLERS = ("pip", "uv", "conda")


def check_runtime_env(name: str, value: Mapping[str, Any]) -> None:
    """Raises SettingsError for an unknown key, two installers, packages without a list, or a variable that is no text.

    `name`: dotted key of the setting.
    """
    for key in value:
        if key not in PUBLIC_KEYS and not key.startswith("_"):  # Ray's experiments, e.g. _nsight
            raise SettingsError(f"{name} must have keys of Ray ({', '.join(PUBLIC_KEYS)}), got {key!r}: correct it")
    installers = [key for key in _INSTALLERS if value.get(key)]
    if len(installers) > 1:
        raise SettingsError(f"{name} must name one of pip, uv and conda, got {' and '.join(installers)}: leave one out")
    for key in ("pip", "uv"):
        packages: Any = value.get(key, [])
        is_list = isinstance(packages, (list, tuple)) and all(isinstance(each, str) for each in cast(Any, packages))
        if not is_list and not isinstance(packages, (str, Mapping)):
            raise SettingsError(f"{name} must have a list of packages at {key}, got {packages!r}: e.g. [timm==1.0.19]")
    variables: Any = value.get("env_vars", {})
    if not isinstance(variables, Mapping):
        raise SettingsError(f"{name} must have texts by name at env_vars, got {variables!r}: e.g. {{HF_HOME: /cache}}")
    for variable, text in cast("Mapping[str, Any]", variables).items():
        if not isinstance(text, str):
            where, quoted = f"env_vars.{variable}", f"'\"{text}\"'"
            raise SettingsError(f"{name} must have a text at {where}, got {text!r}: write {name}.{where}={quoted}")

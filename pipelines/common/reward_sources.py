"""Whether what a reward loads is there: your own code, or the weights and packages of a published model.

Your code is not run: it may need packages that only its replicas have.
"""

from __future__ import annotations

import ast
import importlib.util
import os
import sys
from pathlib import Path

from actors.rewards.scorers import MAX_BILLIONS_ON_CPU, SCORERS, require_installed
from conf import Settings, SettingsError
from pipelines.common.models import check_model


def check_import_path(name: str, path: str) -> None:
    """Raises SettingsError if `rewards.<name>.path`, "package.module:name", is not in the working folder or installed.

    The module is found as Python finds it, and its names by its source. A module without source counts as right.
    """
    module, _, attribute = path.partition(":")
    source = _source(module)
    if source is None:
        raise SettingsError(
            f"rewards.{name}.path={path}: there is no module {module} in {os.getcwd()}, and none is installed: call "
            "the command where it is, or correct the path"
        )
    try:
        tree = ast.parse(source.read_text(encoding="utf-8")) if source.suffix == ".py" else None
    except (OSError, UnicodeDecodeError, SyntaxError) as error:
        raise SettingsError(f"rewards.{name}.path={path}: {source} cannot be read: {error}") from error
    if tree and attribute not in _names(tree):
        raise SettingsError(f"rewards.{name}.path={path}: {source} has no {attribute} at its top level: correct it")


def _source(module: str) -> Path | None:
    """The file of a module; None if there is no such module."""
    here = os.getcwd()
    added = here not in sys.path
    if added:
        sys.path.insert(0, here)
    try:
        importlib.invalidate_caches()
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        return None
    finally:
        if added:
            sys.path.remove(here)
    return Path(spec.origin) if spec and spec.origin else None


def _names(tree: ast.Module) -> set[str]:
    """The names that a module defines or imports at its top level."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            names |= {(alias.asname or alias.name).split(".")[0] for alias in node.names}
    return names


def check_reward_sources(settings: Settings) -> None:
    """Raises SettingsError for a reward whose code, weights, packages or GPU are not there. Imports no model."""
    for name, term in settings.used_rewards().items():
        kind = term.kind_of(name)
        if kind == "python":
            check_import_path(name, term.path)
        if kind == "depth_rules":
            for key, model in (("model", term.model), ("depth_model", term.depth_model)):
                if model:
                    check_model(settings, f"rewards.{name}.{key}", model, "config.json")
        if kind not in SCORERS:
            continue
        if term.model:
            check_model(settings, f"rewards.{name}.model", term.model, "config.json")
        elif not term.gpus and SCORERS[kind].billions > MAX_BILLIONS_ON_CPU:
            raise SettingsError(
                f"rewards.{name}.gpus is 0, but {kind} has {SCORERS[kind].billions:g} billion parameters and needs "
                f"minutes an image on a CPU: set rewards.{name}.gpus=1, or name smaller weights in rewards.{name}.model"
            )
        if term.packages == "installed" and not term.runtime_env:
            require_installed(kind, f"set rewards.{name}.packages=pip")

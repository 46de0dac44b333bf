"""Whether what a reward loads is there: your own code, or the weights and packages of a published model.

Your code is not run: it may need packages that only its replicas have.
"""

from __future__ import annotations

import ast
import importlib.util
import os
import sys
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from actors.rewards.scorers import (
    DEPTH_ANYTHING,
    GROUNDING_DINO,
    MAX_BILLIONS_ON_CPU,
    SCORERS,
    commit_of,
    require_installed,
)
from actors.services.keys import Key, key_in
from conf import Settings, SettingsError
from conf.rewards import RewardTerm
from pipelines.common.models import check_model


def check_import_path(name: str, path: str) -> None:
    """Raises SettingsError if `rewards.<name>.path`, "package.module:name", is not in the working folder or installed.

    The module is found as Python finds it, and its names by its source. A module without source counts as right.
    """
    module, _, attribute = path.partition(":")
    source = module_file(module)
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


def service_token(name: str, term: RewardTerm) -> Key | None:
    """The token of a reward's service, from the environment; None if it needs none. Raises what `key_in` raises."""
    return key_in(term.token_variable, f"the token of rewards.{name}") if term.token_variable else None


def module_file(module: str) -> Path | None:
    """The file of a module of the working folder or an installed one; None if there is no such module."""
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


@dataclass(frozen=True)
class RewardModel:
    """A model that a reward loads."""

    setting: str
    location: str
    """Directory or hub id."""
    file: str
    """A file that it has there."""
    given: bool = False
    """Whether the settings name it, and it is not the published one of its kind."""
    revision: str = ""
    """Commit or branch on the hub; "": the newest."""


def reward_models(settings: Settings, without: Collection[str] = ()) -> Iterator[RewardModel]:
    """The models that the rewards of a run load, without SpatialScore and the kinds `without`."""
    for name, term in settings.used_rewards().items():
        kind, key = term.kind_of(name), f"rewards.{name}.model"
        if kind in without:
            continue
        if kind == "detector":
            yield RewardModel("detector.model", settings.detector.model, "config.json", True)
        if kind == "depth_rules":
            yield RewardModel(key, term.model or GROUNDING_DINO, "config.json", bool(term.model))
            depth = term.depth_model or DEPTH_ANYTHING
            yield RewardModel(f"rewards.{name}.depth_model", depth, "config.json", bool(term.depth_model))
        if kind in SCORERS:
            entry, location = SCORERS[kind], term.model or SCORERS[kind].model
            is_folder = Path(location).is_dir()
            file, revision = "config.json" if is_folder else entry.file, term.revision or commit_of(location)
            yield RewardModel(key, location, file, bool(term.model), revision)
            for other in () if is_folder else entry.beside:
                yield RewardModel(f"part of rewards.{name}", other, "config.json", revision=commit_of(other))


def check_reward_sources(settings: Settings, without: Collection[str] = ()) -> None:
    """Raises SettingsError for a reward whose code, weights, packages or GPU are not there. Imports no model.

    `without`: kinds that are not used.
    """
    for model in reward_models(settings, without):
        if model.given:
            check_model(settings, model.setting, model.location, model.file)
    for name, term in settings.used_rewards().items():
        kind = term.kind_of(name)
        if kind == "python":
            check_import_path(name, term.path)
        if kind not in SCORERS:
            continue
        if not term.model and not term.gpus and SCORERS[kind].billions > MAX_BILLIONS_ON_CPU:
            raise SettingsError(
                f"rewards.{name}.gpus is 0, but {kind} has {SCORERS[kind].billions:g} billion parameters and needs "
                f"minutes an image on a CPU: set rewards.{name}.gpus=1, or name smaller weights in rewards.{name}.model"
            )
        if term.packages == "installed" and not term.runtime_env:
            require_installed(kind, f"set rewards.{name}.packages=pip")

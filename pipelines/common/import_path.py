"""Whether the code of your own reward is there. It is not run: it may need packages that only its replicas have."""

from __future__ import annotations

import ast
import importlib.util
import os
import sys
from pathlib import Path

from conf import SettingsError


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

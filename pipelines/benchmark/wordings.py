"""The text around the questions: read from the authors' code in the user's clone, without running it; else ours."""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Mapping
from pathlib import Path

from pipelines.benchmark.items import Wording


def constants_of(path: Path) -> dict[str, object]:
    """Returns the literals that a Python file assigns to names at its top level; {} if it cannot be read."""
    try:
        tree = ast.parse(path.read_text("utf-8"))
    except (OSError, SyntaxError, ValueError):
        return {}
    found: dict[str, object] = {}
    for node in tree.body:
        if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
            try:
                found[node.targets[0].id] = ast.literal_eval(node.value)
            except ValueError:
                continue
    return found


def system_line(path: Path) -> str:
    """Returns the content of the system message in a Python file's list of messages; "" if there is none."""
    try:
        tree = ast.parse(path.read_text("utf-8"))
    except (OSError, SyntaxError, ValueError):
        return ""
    for node in ast.walk(tree):
        if isinstance(node, ast.Dict):
            pairs = {
                key.value: value.value
                for key, value in zip(node.keys, node.values, strict=True)
                if isinstance(key, ast.Constant) and isinstance(value, ast.Constant)
            }
            if pairs.get("role") == "system" and isinstance(content := pairs.get("content"), str):
                return content
    return ""


def wording_of(
    templates: tuple[str, ...], origin: str, system: str = "", definitions: Mapping[str, str] | None = None
) -> Wording:
    """A wording with the digest of all of its text."""
    parts = [*templates, system, *(f"{name}: {text}" for name, text in (definitions or {}).items())]
    digest = hashlib.sha256("\0".join(parts).encode()).hexdigest()
    return Wording(templates, origin, digest, system, definitions or {})


def choose(wording: Wording, item: str, image: int, attempt: int) -> str:
    """One of the templates, by item, image and attempt: a repeated run asks the same."""
    if len(wording.templates) == 1:
        return wording.templates[0]
    digest = hashlib.sha256(f"{item}|{image}|{attempt}".encode()).digest()
    return wording.templates[digest[0] % len(wording.templates)]

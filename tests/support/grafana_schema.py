"""Checks a dashboard against Grafana's published schema: the models of its Foundation SDK, which are made from it."""

from __future__ import annotations

import enum
import json
import types
import typing
from collections.abc import Iterator
from typing import Any

from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard


def schema_errors(dashboard: dict[str, Any]) -> list[str]:
    """Fields that the schema does not have, and values that it does not allow, with their paths."""
    register_default_plugins()
    model = Dashboard.from_json(dashboard)
    again = json.loads(JSONEncoder().encode(model))
    return [*_unknown(dashboard, again, "dashboard"), *_wrong(model, Dashboard, "dashboard")]


def _unknown(given: Any, known: Any, path: str) -> Iterator[str]:
    """What is lost when the models read and write it."""
    if isinstance(given, dict) and isinstance(known, dict):
        for key, value in given.items():
            if key in known:
                yield from _unknown(value, known[key], f"{path}.{key}")
            else:
                yield f"{path}.{key} is no field"
    elif isinstance(given, list) and isinstance(known, list) and len(given) == len(known):
        for number, (one, other) in enumerate(zip(given, known, strict=True)):
            yield from _unknown(one, other, f"{path}[{number}]")
    elif given != known:
        yield f"{path} = {given!r} is read as {known!r}"


def _wrong(value: Any, hint: Any, path: str) -> Iterator[str]:
    """Values that are not of the type that a model declares."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        found = [list(_wrong(value, each, path)) for each in arguments]
        if all(found):
            yield min(found, key=len)[0] if len(found) < 3 else f"{path} = {value!r} is none of {arguments}"
    elif origin is list:
        if not isinstance(value, list):
            yield f"{path} = {value!r} is no list"
        else:
            for number, each in enumerate(value):
                yield from _wrong(each, arguments[0], f"{path}[{number}]")
    elif _is_model(type(value)):
        if isinstance(hint, type) and not isinstance(value, hint) and _is_model(hint):
            yield f"{path} is a {type(value).__name__}, not a {hint.__name__}"
        for name, each in typing.get_type_hints(type(value)).items():
            yield from _wrong(getattr(value, name), each, f"{path}.{name}")
    elif _is_model(hint) and isinstance(value, dict):
        yield from _wrong(hint.from_json(value), hint, path)
    elif not _is_value_of(value, hint, origin, arguments):
        yield f"{path} = {value!r} is not {hint}"


def _is_value_of(value: Any, hint: Any, origin: Any, arguments: tuple[Any, ...]) -> bool:
    if origin is typing.Literal:
        return value in arguments
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return value in [each.value for each in hint]
    if hint in (str, bool, int, float, type(None)):
        numbers = {float: (int, float)}.get(hint, (hint,))
        return isinstance(value, numbers) and isinstance(value, bool) == (hint is bool)
    return hint in (object, Any) or origin is dict or not _is_model(hint)


def _is_model(kind: Any) -> bool:
    return (
        isinstance(kind, type)
        and kind.__module__.startswith("grafana_foundation_sdk.models")
        and not issubclass(kind, enum.Enum)
    )

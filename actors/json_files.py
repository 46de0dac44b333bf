"""One reader for JSON from outside: files that a user wrote, and files of a process that may have been killed.

The text must be UTF-8, with or without a byte order mark. Refused are a key that occurs twice, a number that does not
fit into 64 bits, half of a surrogate pair, nesting that Python cannot parse, and (unless it is asked for) NaN.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import fields
from functools import cache
from typing import Any, TypeVar, cast

from pyarrow import fs

from actors.files import file_system, read_file

T = TypeVar("T")

BYTE_ORDER_MARK = "\ufeff"
_MAX_DIGITS = 20
"""Digits of an integer: enough for 64 bits."""


class JsonError(ValueError):
    """The content is not JSON, or not what is expected there. The message says what is wrong with it."""


def parse_json(content: bytes, *, nan: bool = False) -> Any:
    """Parses one JSON text. `nan`: accept NaN and Infinity. Raises JsonError, which quotes nothing of the content."""
    try:
        text = content.decode().removeprefix(BYTE_ORDER_MARK)
    except UnicodeDecodeError as error:
        raise JsonError(f"it is not UTF-8 text (byte {error.start + 1})") from error
    try:
        value = json.loads(
            text,
            object_pairs_hook=_object,
            parse_int=_integer,
            parse_float=float if nan else _finite,
            parse_constant=None if nan else _finite,
        )
        if "\\u" in text:  # an escape may be half of a surrogate pair, which no file and no tokenizer can hold
            json.dumps(value, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        raise JsonError(f"it is not JSON: {error.msg}, column {error.colno}") from error
    except UnicodeEncodeError as error:
        raise JsonError("it holds half of a surrogate pair, such as \\ud800") from error
    except RecursionError as error:
        raise JsonError("it is nested too deeply") from error
    return value


def parse_object(content: bytes, *, nan: bool = False) -> dict[str, Any]:
    """Parses one JSON object. Raises JsonError for everything else."""
    value = parse_json(content, nan=nan)
    if not isinstance(value, dict):
        raise JsonError(f"it must be a JSON object, got {_NAMES.get(type(value), 'another value')}")
    return cast("dict[str, Any]", value)


def read_object(location: str) -> dict[str, Any]:
    """Reads the object in a JSON file that this program wrote, NaN included. `location`: a path or URI.

    Raises FileNotFoundError if it is absent, and JsonError, which names it, if it is a folder or no JSON object.
    """
    system, path = file_system(location)
    if system.get_file_info(path).type == fs.FileType.Directory:
        raise JsonError(f"{location} must be a file, got a folder")
    try:
        return parse_object(read_file(location), nan=True)
    except JsonError as error:
        raise JsonError(f"{location} is damaged: {error}") from error


def read_record(location: str, record: type[T], *, more_keys: bool = False) -> T:
    """Reads a dataclass from the JSON file that holds its fields.

    Types are checked strictly: "5" is not a number, null is not an empty mapping. Keys may be in any order; missing
    ones are refused, and unknown ones unless `more_keys`. Raises FileNotFoundError if the file is absent, and
    JsonError, which names file and field, if it does not hold such a record.
    """
    from pydantic import ValidationError  # loads in a tenth of a second, which most commands can save

    content = read_object(location)
    known = {field.name for field in fields(cast(Any, record))}
    if not more_keys and (unknown := sorted(content.keys() - known)):
        raise JsonError(f"{location} is not a {record.__name__}: unknown keys {unknown[:3]}")
    try:
        return _adapter(record).validate_json(json.dumps(content), strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        key = ".".join(map(str, first["loc"]))
        raise JsonError(f"{location} is not a {record.__name__}: {key}: {first['msg']}") from error


def object_or_none(location: str) -> dict[str, Any] | None:
    """Like `read_object`, but None, with a warning, if the file is damaged; None if it is absent."""
    return _or_none(lambda: read_object(location))


def record_or_none(location: str, record: type[T], *, more_keys: bool = False) -> T | None:
    """Like `read_record`, but None, with a warning, if the file is damaged or foreign; None if it is absent."""
    return _or_none(lambda: read_record(location, record, more_keys=more_keys))


def _or_none(read: Callable[[], T]) -> T | None:
    try:
        return read()
    except FileNotFoundError:
        return None
    except JsonError as error:
        logging.warning("%s; it is passed over", error)
        return None


def is_plain_name(name: str) -> bool:
    """Whether `name` is the name of an entry of a folder, and not a path that leaves it."""
    return bool(name) and name not in (".", "..") and not set(name) & {"/", "\\", "\0"}


@cache
def _adapter(record: type[T]) -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(record)


_NAMES = {list: "a list", str: "a text", int: "a number", float: "a number", bool: "true or false", type(None): "null"}


def _object(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise JsonError(f"the key {twice[:40]!r} occurs twice")
    return values


def _integer(digits: str) -> int:
    if len(digits.lstrip("-")) > _MAX_DIGITS:
        raise JsonError(f"a number must have at most {_MAX_DIGITS} digits, got {len(digits)}")
    return int(digits)


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise JsonError(f"a number must be finite, got {text[:20]}")
    return value

"""Reading published files: text, CSV and JSON lines with errors that name the place, and checksums."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from conf import UserError
from pipelines.benchmark.items import BenchmarkItem, Problem

MAX_FIELD = 2**20  # characters of a CSV field


@dataclass(frozen=True)
class Line:
    """One object of a JSON-lines file."""

    values: Mapping[str, object]
    place: str  # "file:7"


def read_text(path: Path, how_to_get: str) -> str:
    """Returns a UTF-8 file without a byte order mark. Raises UserError if it cannot be read."""
    try:
        return path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing: {how_to_get}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} must be a UTF-8 text file, got {error}: {how_to_get}") from error


def read_csv(path: Path, columns: Iterable[str], how_to_get: str) -> list[dict[str, str]]:
    """Returns the rows of a CSV file with a header. Raises UserError if a column is missing or a row is broken.

    Quotes inside a field are read as pandas reads them, which the official scripts use.
    """
    csv.field_size_limit(MAX_FIELD)
    reader = csv.DictReader(io.StringIO(read_text(path, how_to_get), newline=""))
    try:
        rows = list(reader)
    except csv.Error as error:
        raise UserError(f"{path}:{reader.line_num} is no CSV row, {error}: {how_to_get}") from error
    absent = [name for name in columns if name not in (reader.fieldnames or [])]
    if absent:
        raise UserError(f"{path} must have the column {absent[0]!r}, got {reader.fieldnames}: {how_to_get}")
    for number, row in enumerate(rows):
        if any(not isinstance(row[name], str) for name in columns):
            raise UserError(f"{path}, row {number}, must have {len(reader.fieldnames or [])} fields: {how_to_get}")
    return [{name: row[name] for name in columns} for row in rows]


def read_lines(path: Path, how_to_get: str) -> Iterator[Line]:
    """Yields the objects of a JSON-lines file; blank lines are skipped. Raises UserError that names the line."""
    for number, text in enumerate(read_text(path, how_to_get).split("\n"), start=1):
        if not text.strip():
            continue
        try:
            values: object = json.loads(text)
        except ValueError as error:
            raise UserError(f"{path}:{number} is not JSON, {error}: {how_to_get}") from error
        if not isinstance(values, dict):
            raise UserError(f"{path}:{number} must be a JSON object, got {text[:60]!r}: {how_to_get}")
        yield Line(cast("dict[str, object]", values), f"{path}:{number}")


def read_items(path: Path, how_to_get: str, make: Callable[[Line, int], BenchmarkItem]) -> tuple[BenchmarkItem, ...]:
    """The items of a JSON-lines file, `make(line, index)` for each line. Raises UserError if it has none."""
    items = tuple(make(line, index) for index, line in enumerate(read_lines(path, how_to_get)))
    if not items:
        raise UserError(f"{path} has no lines: {how_to_get}")
    return items


def string_of(line: Line, key: str) -> str:
    """Returns a string of a line. Raises UserError if it is absent or no string."""
    value = line.values.get(key)
    if not isinstance(value, str):
        raise UserError(f"{line.place} must have a string as {key!r}, got {value!r:.80}")
    return value


def strings_of(line: Line, key: str) -> tuple[str, ...]:
    """Returns a list of strings of a line. Raises UserError if it is absent or anything else."""
    value = line.values.get(key)
    items = cast("list[object]", value) if isinstance(value, list) else None
    strings = tuple(each for each in items or () if isinstance(each, str))
    if items is None or len(strings) != len(items):
        raise UserError(f"{line.place} must have a list of strings as {key!r}, got {value!r:.80}")
    return strings


def sha256_of(paths: Sequence[Path]) -> str:
    """SHA-256 of the contents of files, one after the other."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(path.read_bytes())
    return digest.hexdigest()


def git_blob(path: Path) -> str:
    """The id that git gives a file's content: `git hash-object`."""
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def compare(path: Path, expected: str, found: str, kind: str) -> list[Problem]:
    """A problem if a checksum differs from that of the published file."""
    if found == expected:
        return []
    text = f"{path} is not the published file: its {kind} is {found}, published {expected}"
    return [Problem(f"{text}; results do not compare with published ones", fatal=False)]


def check_file(path: Path, sha256: str, how_to_get: str) -> list[Problem]:
    """The problems of one published file: it is missing, or its SHA-256 differs."""
    if not path.is_file():
        return [Problem(f"{path} is missing: {how_to_get}", fatal=True)]
    return compare(path, sha256, sha256_of([path]), "SHA-256")


def first_existing(folder: Path, *names: str) -> Path:
    """The first of several places that exists, or else the first."""
    return next((folder / name for name in names if (folder / name).exists()), folder / names[0])

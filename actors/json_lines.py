"""One reader for JSON lines, strict for a user's files and tolerant for our own logs, and the writer of the logs.

Lines end at newlines only: U+2028, U+2029 and U+0085 belong to a text. CRLF, a byte order mark and blank lines are
accepted, and so is a last line without a newline. A line has at most MAX_LINE_BYTES. See `json_files` for its content.
"""

from __future__ import annotations

import io
import json
import logging
import math
import os
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeVar, cast

from pyarrow import fs

from actors.files import file_system
from actors.json_files import JsonError, parse_object
from conf.errors import UserError

T = TypeVar("T")

MAX_LINE_BYTES = 2**20
_warned: set[str] = set()  # logs whose unreadable lines were reported by this process


@dataclass(frozen=True)
class Row:
    """One line of a user's file."""

    values: dict[str, Any]
    number: int  # of the line, from 1
    place: str  # "prompts.jsonl:7", the start of every message about the line


def read_rows(location: str, form: str) -> Iterator[Row]:
    """Yields the rows of a file that a user wrote.

    `location`: a path or URI. `form`: what a line must be, and where that is explained; every message ends in it.
    Raises UserError if there is no such file, or for a line, which it names with the rule that it breaks.
    """
    with _open(location, form) as stream:
        for number, line in _lines(stream):
            place = f"{location}:{number}"
            if line is None:
                raise UserError(f"{place} must have at most {MAX_LINE_BYTES} bytes: {form}")
            if _is_blank(line):
                continue
            try:
                values = parse_object(line)
            except JsonError as error:
                raise UserError(f"{place} cannot be read, {error}, got {_shown(line)}: {form}") from error
            yield Row(values, number, place)


def read_log(path: Path, convert: Callable[[dict[str, Any]], T]) -> list[T]:
    """Reads a log that this program appended to; none if it is absent. `convert` makes an entry of a line's object.

    A line that is no such object, or for which `convert` raises ValueError, TypeError or KeyError, is skipped, and a
    warning tells the number of these lines once. An unreadable last line without a newline is being written now, or its
    writer was killed: it is skipped silently.
    """
    if not path.exists():
        return []
    entries, bad, reason = list[T](), 0, ""
    with path.open("rb") as stream:
        for number, line in _lines(stream):
            try:
                if line is None:
                    raise JsonError(f"it has over {MAX_LINE_BYTES} bytes")
                if not _is_blank(line):
                    entries.append(convert(parse_object(line, nan=True)))
            except (ValueError, TypeError, KeyError) as error:
                if line is None or line.endswith(b"\n"):
                    bad += 1
                    reason = reason or f"line {number}: {error}"
    if bad and str(path) not in _warned:
        _warned.add(str(path))
        logging.warning("%s: %d unreadable lines are skipped, the first is %s", path, bad, reason)
    return entries


def append_row(path: Path, row: Mapping[str, object]) -> None:
    """Appends a row to a log. NaN becomes null, which JSON has. Half a line of a killed writer keeps a line of its own.

    Raises OSError if the file cannot be written.
    """
    line = json.dumps(_without_nan(row), allow_nan=False).encode() + b"\n"
    with path.open("ab+") as file:
        if file.seek(0, os.SEEK_END):
            file.seek(-1, os.SEEK_END)
            line = line if file.read(1) == b"\n" else b"\n" + line
        file.write(line)


def _open(location: str, form: str) -> BinaryIO:
    system, path = file_system(location)
    kind = system.get_file_info(path).type
    if kind != fs.FileType.File:
        found = {fs.FileType.NotFound: "no such file", fs.FileType.Directory: "it is a folder"}
        raise UserError(f"{location} must be a file ({found.get(kind, 'it is a device or a pipe')}): {form}")
    try:
        return cast(BinaryIO, io.BufferedReader(cast(Any, system.open_input_stream(path, compression=None))))
    except OSError as error:
        raise UserError(f"{location} must be a readable file ({error.strerror or error}): {form}") from error


def _lines(stream: BinaryIO) -> Generator[tuple[int, bytes | None]]:
    """Yields number and bytes of each line; None in place of a line with over MAX_LINE_BYTES, which is not kept."""
    number = 0
    while line := stream.readline(MAX_LINE_BYTES):
        number += 1
        if len(line) < MAX_LINE_BYTES or line.endswith(b"\n"):
            yield number, line
            continue
        yield number, None
        while line and not line.endswith(b"\n"):
            line = stream.readline(MAX_LINE_BYTES)


def _without_nan(value: object) -> object:
    """The value with null in place of numbers that are not finite, in mappings too."""
    if isinstance(value, Mapping):
        return {key: _without_nan(entry) for key, entry in cast("Mapping[str, object]", value).items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _is_blank(line: bytes) -> bool:
    """Whether a line has no text. A byte order mark is none."""
    return not line.decode(errors="replace").strip("\ufeff \t\r\n").strip()


def _shown(line: bytes) -> str:
    return repr(line[:80].decode(errors="replace").strip("\r\n"))

"""Receipts: beside each output, what it was made from, so that complete work is not done twice.

A receipt is a JSON file that is written after a stage's output, whole or not at all. It holds the digest of what the
output depends on (settings and input files) and the text that the stage said at its end.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from actors.storage import exists, read_file, write_file


@dataclass(frozen=True)
class Receipt:
    """One finished stage."""

    digest: str  # of everything that decides the output
    told: str  # what the stage said at its end
    seconds: float  # that it took


def read_receipt(path: Path) -> Receipt | None:
    """The receipt at `path`; None where there is none."""
    return Receipt(**json.loads(read_file(str(path)))) if exists(str(path)) else None


def write_receipt(path: Path, receipt: Receipt) -> None:
    """Writes a receipt, whole or not at all."""
    write_file(str(path), json.dumps(asdict(receipt), indent=1).encode())


def digest_of(parts: Mapping[str, object]) -> str:
    """SHA-256 of JSON-like values, whatever the order of their keys."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=asdict).encode()).hexdigest()


def digest_of_files(folder: Path) -> str:
    """SHA-256 of the names and contents of a folder's files, hidden and `_` ones left out; "absent" without folder."""
    return _digest_over(folder, _whole) if folder.is_dir() else "absent"


def digest_of_model(folder: Path) -> str:
    """SHA-256 of a folder's names, sizes and contents, of large files the first and the last MiB alone.

    Enough to tell models apart, and taken in a moment where reading all of one takes minutes.
    """
    return _digest_over(folder, _size_and_ends)


def _digest_over(folder: Path, told: Callable[[Path], str]) -> str:
    """Of every file's name and what is told of it."""
    total = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.name.startswith((".", "_")):
            total.update(f"{path.relative_to(folder)} {told(path)}\n".encode())
    return total.hexdigest()


def _whole(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _size_and_ends(path: Path) -> str:
    size = path.stat().st_size
    with path.open("rb") as stream:
        content = stream.read(2**20)
        stream.seek(max(size - 2**20, len(content)))
        content += stream.read()
    return f"{size} {hashlib.sha256(content).hexdigest()}"


def digest_of_names(folder: Path, pattern: str) -> str:
    """SHA-256 of names and sizes of a folder's files, for folders that are too large to be read again."""
    listing = sorted((str(path.relative_to(folder)), path.stat().st_size) for path in folder.rglob(pattern))
    return digest_of({"files": listing})

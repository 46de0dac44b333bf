"""Digests of settings, files and folders. They decide whether finished work is still valid."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict
from pathlib import Path

from actors.files import digest, read_file

SHORT_DIGITS = 12
"""Digits of a shortened SHA-256. They distinguish files and fit into an error message."""


def digest_of(parts: Mapping[str, object]) -> str:
    """Returns the SHA-256 of JSON-like values. The order of the keys does not matter."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=asdict).encode()).hexdigest()


def digest_of_text(path: str) -> str:
    """Returns a short SHA-256 of a text file; "" if `path` is empty. Raises FileNotFoundError if it is absent."""
    return digest(read_file(path))[:SHORT_DIGITS] if path else ""


def digest_of_files(folder: Path, leave_out: Collection[str] = ()) -> str:
    """Returns the SHA-256 of the names and contents of a folder's files; "absent" if there is no folder.

    Files in it that `leave_out` names, and all whose name begins with "." or "_", are left out.
    """
    return _digest_over(folder, digest_of_file, leave_out) if folder.is_dir() else "absent"


def digest_of_model(folder: Path) -> str:
    """Returns the SHA-256 of the names, sizes, first MiB and last MiB of a folder's files.

    This distinguishes models and takes a moment; reading a whole model would take minutes.
    """
    return _digest_over(folder, _size_and_ends)


def digest_of_names(folder: Path, pattern: str) -> str:
    """Returns the SHA-256 of the names and sizes of a folder's files. Use it for folders too large to be read again."""
    listing = sorted((str(path.relative_to(folder)), path.stat().st_size) for path in folder.rglob(pattern))
    return digest_of({"files": listing})


def digest_of_file(path: Path) -> str:
    """Returns the SHA-256 of one local file, read in blocks."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _digest_over(folder: Path, describe: Callable[[Path], str], leave_out: Collection[str] = ()) -> str:
    """Returns the SHA-256 of the name and the description of every file."""
    total = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_file() and not path.name.startswith((".", "_")) and name not in leave_out:
            total.update(f"{name} {describe(path)}\n".encode())
    return total.hexdigest()


def _size_and_ends(path: Path) -> str:
    size = path.stat().st_size
    with path.open("rb") as stream:
        content = stream.read(2**20)
        stream.seek(max(size - 2**20, len(content)))
        content += stream.read()
    return f"{size} {hashlib.sha256(content).hexdigest()}"

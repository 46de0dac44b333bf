"""The digests of a build's files. A file whose size and time are those of its last digest is not read again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pipelines.common.fingerprints import digest_of_file


@dataclass(frozen=True)
class TableFile:
    """A parquet file in the manifest."""

    name: str  # relative to the folder of the build
    sha256: str
    size: int = -1  # bytes; -1 in manifests of earlier versions
    modified: int = -1  # nanoseconds since 1970, when the digest was computed


def describe(folder: Path, name: str, known: Mapping[str, TableFile]) -> TableFile:
    """A file as it is now. Its digest is taken from `known` (name -> file) if size and time have not changed."""
    status = (folder / name).stat()
    before = known.get(name)
    if before and (before.size, before.modified) == (status.st_size, status.st_mtime_ns):
        return before
    return TableFile(name, digest_of_file(folder / name), status.st_size, status.st_mtime_ns)


def is_damaged(folder: Path, file: TableFile) -> bool:
    """Whether a file is missing, or has another content than when it was described."""
    try:
        return describe(folder, file.name, {file.name: file}).sha256 != file.sha256
    except FileNotFoundError:
        return True

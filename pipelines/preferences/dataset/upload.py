"""Copies a published version to a URI (s3://…, gs://…), from which stage 2 can read it."""

from __future__ import annotations

from pathlib import Path

from pyarrow import fs

from actors.files import exists, file_system, join, read_file
from conf import UserError
from pipelines.preferences.dataset.verify import CHECKSUMS


def is_uri(location: str) -> bool:
    """Whether a location is a URI and no path."""
    return "://" in location


def require_free(location: str) -> None:
    """Raises UserError if a version is complete at `location`, a URI, already, or if nobody can look there."""
    try:
        complete = exists(join(location, CHECKSUMS))
    except (OSError, ValueError) as error:  # ValueError: pyarrow does not know this kind of URI
        raise _unreachable(location, error) from error
    if complete:
        raise UserError(f"{location} is published already: raise publish.version, or delete it there")


def upload(folder: Path, location: str) -> str:
    """Copies a version to `location`, a URI, its checksums last, and returns the URI. An interrupted copy starts again.

    Raises UserError if another version is there, or if the file system refuses.
    """
    sums = (folder / CHECKSUMS).read_bytes()
    try:
        if exists(join(location, CHECKSUMS)):
            if read_file(join(location, CHECKSUMS)) == sums:
                return location
            raise UserError(f"{location} holds another version: raise publish.version, or delete it there")
        names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
        for name in [*(name for name in names if name != CHECKSUMS), CHECKSUMS]:
            _copy(folder / name, join(location, name))
    except (OSError, ValueError) as error:
        raise _unreachable(location, error) from error
    return location


def _copy(source: Path, target: str) -> None:
    system, path = file_system(target)
    system.create_dir(path.rpartition("/")[0], recursive=True)
    fs.copy_files(str(source), path, fs.LocalFileSystem(), system)


def _unreachable(location: str, error: Exception) -> UserError:
    return UserError(
        f"publish.out must be a folder or a URI that pyarrow.fs supports, and that you may write to, got {location}: "
        f"{error}: correct it and start the command again"
    )

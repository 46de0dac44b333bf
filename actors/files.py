"""Atomic writes: a file or folder is either complete or absent. Locations are paths or URIs that pyarrow.fs knows."""

from __future__ import annotations

import hashlib
import os
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path

from pyarrow import fs


class DamagedFileError(ValueError):
    """The content of a file does not have the digest that was recorded when it was written."""


def file_system(location: str) -> tuple[fs.FileSystem, str]:
    """Returns the file system of a path or URI, and the path inside it."""
    if "://" in location:
        return fs.FileSystem.from_uri(location)
    return fs.LocalFileSystem(), str(Path(location).absolute())


def join(location: str, name: str) -> str:
    """Returns the location of the entry `name` of a folder.

    A URI keeps its query: s3://bucket/folder/name?endpoint_override=…
    """
    folder, mark, query = location.partition("?") if "://" in location else (location, "", "")
    return f"{folder.rstrip('/')}/{name}{mark}{query}"


def write_file(location: str, content: bytes) -> None:
    """Writes `content` under a temporary name and renames it. Creates the folder if needed.

    Raises OSError if the file system refuses (full, no permission, unreachable). It then leaves no temporary file.
    """
    system, path = file_system(location)
    system.create_dir(os.path.dirname(path), recursive=True)
    partial = f"{path}.{uuid.uuid4().hex}.partial"
    try:
        with system.open_output_stream(partial) as stream:
            stream.write(content)
        system.move(partial, path)
    except OSError:
        if system.get_file_info(partial).type == fs.FileType.File:
            system.delete_file(partial)
        raise


def write_folder(target: Path, write: Callable[[Path], object]) -> None:
    """Calls `write` with a new folder beside `target`, then replaces `target`, which may exist, by that folder.

    `target` is never half written. If `write` raises, `target` stays as it was.
    """
    partial, old = target.with_name(f"{target.name}.partial"), target.with_name(f"{target.name}.old")
    for leftover in (partial, old):
        shutil.rmtree(leftover, ignore_errors=True)
    partial.mkdir(parents=True)
    write(partial)
    if target.exists():
        target.rename(old)
    partial.rename(target)
    shutil.rmtree(old, ignore_errors=True)


def digest(content: bytes) -> str:
    """Returns the SHA-256 of `content` in hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


def read_file(location: str) -> bytes:
    """Reads a whole file. Raises FileNotFoundError if it is absent."""
    system, path = file_system(location)
    with system.open_input_stream(path) as stream:
        return stream.readall()


def read_checked(location: str, sha256: str) -> bytes:
    """Reads a whole file. Raises DamagedFileError unless its SHA-256 is `sha256`, OSError if it cannot be read."""
    content = read_file(location)
    if digest(content) != sha256:
        raise DamagedFileError(f"{location} has changed since it was written")
    return content


def list_folder(location: str) -> list[str]:
    """Returns the sorted names of the entries of a folder; none if the folder is absent."""
    system, path = file_system(location)
    return sorted(info.base_name for info in system.get_file_info(fs.FileSelector(path, allow_not_found=True)))


def exists(location: str) -> bool:
    """Returns whether a file exists."""
    system, path = file_system(location)
    return system.get_file_info(path).type == fs.FileType.File


def is_folder(location: str) -> bool:
    """Returns whether a folder exists."""
    system, path = file_system(location)
    return system.get_file_info(path).type == fs.FileType.Directory


def delete_folder(location: str) -> None:
    """Deletes a folder and its content. An absent folder is no error."""
    system, path = file_system(location)
    if system.get_file_info(path).type == fs.FileType.Directory:
        system.delete_dir(path)

"""Atomic writes: a file is either complete or absent. Locations are paths or URIs that pyarrow.fs knows."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

from pyarrow import fs

from conf.partial import is_partial, partial_path


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


def write_file(location: str, content: bytes | memoryview) -> None:
    """Writes `content` under a temporary name and renames it. Creates the folder if needed.

    Raises OSError if the file system refuses (full, no permission, unreachable). It then leaves no temporary file.
    """
    system, path = file_system(location)
    system.create_dir(os.path.dirname(path), recursive=True)
    partial = partial_path(path)
    try:
        with system.open_output_stream(partial) as stream:
            stream.write(content)
        system.move(partial, path)
    except OSError:
        if system.get_file_info(partial).type == fs.FileType.File:
            system.delete_file(partial)
        raise


def digest(content: bytes | memoryview) -> str:
    """Returns the SHA-256 of `content` in hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


def read_file(location: str) -> bytes:
    """Reads a whole file. Raises FileNotFoundError if it is absent."""
    system, path = file_system(location)
    with system.open_input_stream(path) as stream:
        return stream.readall()


def read_checked(location: str, sha256: str) -> bytes:
    """Reads a whole file. Raises DamagedFileError unless its SHA-256 is `sha256`, OSError if it cannot be read."""
    if is_folder(location):
        raise DamagedFileError(f"{location} is a folder")
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


def delete_files(folder: str, ours: Callable[[str], bool]) -> None:
    """Deletes the files of a folder whose names are ours, partials of them included, and the folder if nothing is left.

    Other entries stay, and so does everything behind a symbolic link. An absent folder is no error.
    """
    system, path = file_system(folder)
    if system.get_file_info(path).type != fs.FileType.Directory or _is_link(system, path):
        return
    entries = system.get_file_info(fs.FileSelector(path))
    for entry in entries:
        if entry.type == fs.FileType.File and (ours(entry.base_name) or is_partial(entry.base_name)):
            system.delete_file(entry.path)
    if not system.get_file_info(fs.FileSelector(path, allow_not_found=True)):
        system.delete_dir(path)


def _is_link(system: fs.FileSystem, path: str) -> bool:
    return system.type_name == "local" and os.path.islink(path)

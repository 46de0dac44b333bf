"""Files that are either complete or absent, on any path or URI that pyarrow.fs knows."""

from __future__ import annotations

import hashlib
import os
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path

from pyarrow import fs


class DamagedFileError(ValueError):
    """A file's content does not have the digest that was noted when it was written."""


def file_system(location: str) -> tuple[fs.FileSystem, str]:
    """The file system of a path or URI, and the path inside it."""
    if "://" in location:
        return fs.FileSystem.from_uri(location)
    return fs.LocalFileSystem(), str(Path(location).absolute())


def join(location: str, name: str) -> str:
    """The entry `name` of a folder. A URI keeps its query: s3://bucket/folder/name?endpoint_override=…"""
    folder, mark, query = location.partition("?") if "://" in location else (location, "", "")
    return f"{folder.rstrip('/')}/{name}{mark}{query}"


def write_file(location: str, content: bytes) -> None:
    """Writes `content` under a temporary name and renames it, making the folder if needed.

    Raises OSError where the file system refuses (full, not permitted, out of reach), and leaves nothing behind.
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
    """Has `write` fill a new folder beside `target`, then puts it in the place of `target`, which may exist.

    `target` is always either what it was or complete. What `write` raises leaves it as it was.
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
    """SHA-256, in hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


def read_file(location: str) -> bytes:
    """Reads a whole file. Raises FileNotFoundError if it is absent."""
    system, path = file_system(location)
    with system.open_input_stream(path) as stream:
        return stream.readall()


def read_checked(location: str, wanted: str) -> bytes:
    """Reads a whole file. Raises DamagedFileError unless its `digest` is `wanted`, OSError if it cannot be read."""
    content = read_file(location)
    if digest(content) != wanted:
        raise DamagedFileError(f"{location} is not what was written")
    return content


def list_folder(location: str) -> list[str]:
    """Names of the entries of a folder, sorted; none if the folder is absent."""
    system, path = file_system(location)
    return sorted(info.base_name for info in system.get_file_info(fs.FileSelector(path, allow_not_found=True)))


def exists(location: str) -> bool:
    """Whether a file is there."""
    system, path = file_system(location)
    return system.get_file_info(path).type == fs.FileType.File


def is_folder(location: str) -> bool:
    """Whether a folder is there."""
    system, path = file_system(location)
    return system.get_file_info(path).type == fs.FileType.Directory


def delete_folder(location: str) -> None:
    """Removes a folder and what is in it; an absent one is no error."""
    system, path = file_system(location)
    if system.get_file_info(path).type == fs.FileType.Directory:
        system.delete_dir(path)

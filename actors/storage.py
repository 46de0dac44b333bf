"""Files that are either complete or absent, on any path or URI that pyarrow.fs knows."""

from __future__ import annotations

import os
import uuid
from pathlib import Path

from pyarrow import fs


def file_system(location: str) -> tuple[fs.FileSystem, str]:
    """The file system of a path or URI, and the path inside it."""
    if "://" in location:
        return fs.FileSystem.from_uri(location)
    return fs.LocalFileSystem(), str(Path(location).absolute())


def write_file(location: str, content: bytes) -> None:
    """Writes `content` under a temporary name and renames it, making the folder if needed."""
    system, path = file_system(location)
    system.create_dir(os.path.dirname(path), recursive=True)
    partial = f"{path}.{uuid.uuid4().hex}.partial"
    with system.open_output_stream(partial) as stream:
        stream.write(content)
    system.move(partial, path)


def read_file(location: str) -> bytes:
    """Reads a whole file. Raises FileNotFoundError if it is absent."""
    system, path = file_system(location)
    with system.open_input_stream(path) as stream:
        return stream.readall()


def list_folder(location: str) -> list[str]:
    """Names of the entries of a folder, sorted; none if the folder is absent."""
    system, path = file_system(location)
    return sorted(info.base_name for info in system.get_file_info(fs.FileSelector(path, allow_not_found=True)))


def exists(location: str) -> bool:
    """Whether a file is there."""
    system, path = file_system(location)
    return system.get_file_info(path).type == fs.FileType.File


def delete_folder(location: str) -> None:
    """Removes a folder and what is in it; an absent one is no error."""
    system, path = file_system(location)
    if system.get_file_info(path).type == fs.FileType.Directory:
        system.delete_dir(path)

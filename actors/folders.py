"""Folders that this program replaces or cleans. It deletes only what it wrote itself.

Such a folder holds a marker, `.spatialt2i.json`: what the folder is for, the run that it belongs to, and, if it is
replaced as a whole, the files that were written. Everything else in it belongs to somebody else and stays. A folder
with content but without a marker is refused.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from actors.files import exists, join, list_folder, write_file
from actors.json_files import JsonError, read_record
from conf.errors import UserError
from conf.partial import is_abandoned, is_partial, partial_path, replaced_name

MARKER = ".spatialt2i.json"
OTHER_MACHINE_SECONDS = 3600.0
"""Age after which a partial of another machine counts as abandoned."""


@dataclass(frozen=True)
class Marker:
    """What a folder of this program is for."""

    kind: str
    """"run", "checkpoints", …; "files" if the folder is replaced as a whole."""
    run: str = ""
    """Id of the run that it belongs to; "" if it does not matter."""
    run_dir: str = ""
    """Where that run was when it took the folder; for messages."""
    files: tuple[str, ...] = ()
    """Relative paths of the files that were written, of the kind "files"."""


def read_marker(location: str) -> Marker | None:
    """The marker of a folder, a path or URI. None if it has none, or one that cannot be read."""
    try:
        return read_record(join(location, MARKER), Marker) if exists(join(location, MARKER)) else None
    except JsonError as error:
        logging.warning("%s", error)
        return None


def write_marker(location: str, marker: Marker) -> None:
    """Writes the marker of a folder, which is created if needed."""
    write_file(join(location, MARKER), json.dumps(asdict(marker)).encode())


def claim_folder(location: str, marker: Marker, setting: str, ours: Callable[[str], bool] = lambda name: False) -> None:
    """Marks a folder, a path or URI, as one in which the run of `marker` may delete what it wrote.

    `setting` names it in messages. `ours`: whether an entry of an unmarked folder was written by this program before
    it had markers. Raises UserError if the folder holds other content, belongs to another run, or cannot be used.
    """
    try:
        found = read_marker(location)
        foreign = [name for name in list_folder(location) if not ours(name)] if found is None else []
        if found is None and not foreign:
            write_marker(location, marker)
    except (OSError, ValueError) as error:  # ValueError: pyarrow does not know this kind of URI
        raise UserError(f"{setting}={location} cannot be used: {str(error).partition('. Detail')[0]}") from error
    if foreign:
        raise UserError(
            f"{setting}={location} must be a folder of this run only, because old files in it are deleted, but it "
            f"holds {_some(foreign)}: set {setting} to a new or empty folder"
        )
    if found and found.kind != marker.kind:
        raise UserError(f"{setting}={location} is a folder of another kind ({found.kind}): choose another folder")
    if found and found.run != marker.run:
        raise UserError(
            f"{setting}={location} belongs to another run, that of run_dir={found.run_dir}: choose another folder, or "
            f"delete {MARKER} in it if its content is to be this run's"
        )
    if found and _is_of_original(location, found, marker):
        raise UserError(
            f"{setting}={location} belongs to run_dir={found.run_dir}, of which run_dir={marker.run_dir} is a copy: "
            f"set {setting} to a new or empty folder"
        )
    if found and found != marker:  # the run was moved
        with suppress(OSError):  # the marker serves as it is
            write_marker(location, marker)


def _is_of_original(location: str, found: Marker, marker: Marker) -> bool:
    """Whether a folder belongs to the run that the run of `marker` is a copy of. A copy of a run has its id."""
    run_dir, original = Path(marker.run_dir), Path(found.run_dir)
    if found.run_dir == marker.run_dir or Path(location).is_relative_to(run_dir):
        return False
    if original.exists() and run_dir.exists() and run_dir.samefile(original):  # one directory by two paths
        return False
    there = read_marker(found.run_dir)
    return there is not None and there.run == found.run


def claim_names(folder: Path, kind: str, names: Sequence[str]) -> None:
    """Marks a folder as one in which this program may replace the entries `names`. All others belong to others.

    Raises UserError if the folder is not marked and holds one of them.
    """
    if read_marker(str(folder)) is not None:
        return
    if foreign := [name for name in names if os.path.lexists(folder / name)]:
        raise UserError(
            f"{folder} holds {_some(foreign)}, not written by this program, which would be replaced: move it away, or "
            "name another folder"
        )
    write_marker(str(folder), Marker(kind))


def require_replaceable(target: Path) -> None:
    """Raises UserError if `target` is not a folder that `write_folder` may replace. Call it before long work."""
    if not target.exists():
        return
    names = sorted(path.name for path in target.iterdir()) if target.is_dir() else [target.name]
    marker = read_marker(str(target)) if target.is_dir() else None
    if names and (marker is None or marker.kind != "files"):
        raise UserError(
            f"{target} would be replaced, but it holds {_some(names)} and no {MARKER}, which tells what this program "
            "wrote there: move the folder away, or delete it if you do not need it"
        )


def write_folder(target: Path, write: Callable[[Path], object]) -> None:
    """Calls `write` with a new folder beside `target`, then replaces `target`, which may exist, by that folder.

    `target` is never half written. If `write` raises, `target` stays as it was. Files in it that this program did not
    write are kept. All files get the permissions that new files have. Raises UserError as `require_replaceable` does.
    """
    target = Path(os.path.realpath(target))
    require_replaceable(target)
    old = Path(partial_path(str(target), "old"))

    def write_marked(partial: Path) -> None:
        write(partial)
        write_marker(str(partial), Marker("files", files=tuple(sorted(_files(partial)))))

    with _partial_folder(target, write_marked) as partial:
        if target.exists():
            target.rename(old)
        try:
            partial.rename(target)
        except OSError:
            with suppress(FileNotFoundError):
                old.rename(target)
            raise
    _remove_replaced(old, target)


def create_folder(target: Path, write: Callable[[Path], object]) -> None:
    """Calls `write` with a new folder beside `target`, then renames it to `target`, which must not exist.

    The folder holds no marker, because it is never replaced. `target` is never half written.
    """
    with _partial_folder(target, write) as partial:
        partial.rename(target)  # OSError if `target` exists and is not empty


@contextmanager
def _partial_folder(target: Path, write: Callable[[Path], object]) -> Generator[Path]:
    """Yields the folder that `write` has filled, and deletes it if anything fails."""
    partial = Path(partial_path(str(target)))
    partial.mkdir(parents=True)
    now = _now(target.parent)
    for path in target.parent.iterdir():
        if is_partial(path.name) and path.name.startswith(f"{target.name}."):
            _remove_if_abandoned(path, now)
    try:
        write(partial)
        _set_usual_permissions(partial)
        yield partial
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def remove_abandoned(root: Path) -> None:
    """Removes what killed writers left below `root`: files and folders that were not finished.

    A folder that was replaced only by half is put back. Writers that are alive, and names of others, are left alone.
    """
    now = _now(root)
    for folder, folders, files in os.walk(root):
        found = [name for name in (*folders, *files) if is_partial(name)]
        folders[:] = [name for name in folders if name not in found]
        for name in found:
            _remove_if_abandoned(Path(folder) / name, now)


def _remove_if_abandoned(path: Path, now: float) -> None:
    with suppress(OSError):  # its writer may finish at this moment; what stays is tried again at the next start
        abandoned = is_abandoned(path.name)
        if abandoned is None:
            abandoned = now - path.lstat().st_mtime > OTHER_MACHINE_SECONDS
        replaced = replaced_name(path.name)
        if not abandoned:
            return
        if replaced and not os.path.lexists(target := path.with_name(replaced)):
            path.rename(target)
        elif replaced:
            _remove_replaced(path, path.with_name(replaced))
        elif path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _now(folder: Path) -> float:
    """The time by the clock of the folder's file system, which also stamps its files."""
    probe = Path(partial_path(str(folder / "clock")))
    probe.touch()
    try:
        return probe.stat().st_mtime
    finally:
        probe.unlink()


def _remove_replaced(old: Path, target: Path) -> None:
    """Deletes the files of a replaced folder that its marker lists. Moves all others to `target`."""
    marker = read_marker(str(old)) if old.is_dir() else None
    if marker is None:
        return
    written = set(marker.files)
    parents = {str(parent) for name in (*written, MARKER) for parent in Path(name).parents}
    for name in [name for name in _files(old) if name != MARKER]:
        if name in written:
            (old / name).unlink()
        elif not os.path.lexists(target / name):
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            (old / name).rename(target / name)
    (old / MARKER).unlink()  # last, so that a killed process leaves the list to the next one
    for folder, _, _ in os.walk(old, topdown=False):
        with suppress(OSError):  # not empty: the new folder has a file of the same name
            Path(folder).rmdir()
            if (name := str(Path(folder).relative_to(old))) not in parents:
                (target / name).mkdir(parents=True, exist_ok=True)
    if old.exists():
        logging.warning("%s holds files that %s could not take over: %s", old, target, _some(sorted(_files(old))))


def _files(folder: Path) -> Iterator[str]:
    """Relative paths of the files and links below a folder."""
    for parent, folders, files in os.walk(folder):
        links = [name for name in folders if os.path.islink(os.path.join(parent, name))]
        yield from (os.path.relpath(os.path.join(parent, name), folder) for name in (*files, *links))


def set_usual_permissions(file: Path) -> None:
    """Gives a file the permissions that a new one has. Some libraries write files that only their owner can read."""
    file.chmod(_usual_mode(file.parent))


def _usual_mode(folder: Path) -> int:
    """The permissions of a new file in a folder."""
    probe = Path(partial_path(str(folder / "permissions")))
    probe.touch()
    try:
        return probe.stat().st_mode & 0o777
    finally:
        probe.unlink()


def _set_usual_permissions(folder: Path) -> None:
    """The same for all files and folders of a new folder."""
    for parent, _, files in os.walk(folder):
        os.chmod(parent, folder.stat().st_mode & 0o777)
        mode = _usual_mode(Path(parent)) if files else 0
        for name in files:
            if not (path := Path(parent) / name).is_symlink():
                path.chmod(mode)


def _some(names: Sequence[str]) -> str:
    """The first three names."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more

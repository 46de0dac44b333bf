"""Faults of a disk as messages to the user: full, read-only, no permission, or broken."""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, cast

from conf.errors import UserError
from conf.partial import finished_name, partial_path

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
REFUSED = (errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR)
TEXTS = {os.strerror(number): number for number in (*FULL, *REFUSED, errno.EIO)}
"""Texts by which an error of a library is recognized that does not carry the number."""
PROBE_BYTES = 64 << 10


def require_writable(folder: Path, setting: str = "run_dir", keep: bool = False) -> None:
    """Writes a file to a folder, and removes it and every folder that was created for it, unless `keep` is set.

    Raises UserError, which names the setting and the reason, if that fails.
    """
    missing = [path for path in (folder, *folder.parents) if not os.path.lexists(path)]
    probe = Path(partial_path(str(folder / "probe")))
    try:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            probe.write_bytes(bytes(PROBE_BYTES))
        finally:
            with suppress(OSError):
                probe.unlink(missing_ok=True)
            for path in () if keep else missing:
                with suppress(OSError):  # somebody else uses it already
                    path.rmdir()
    except OSError as error:
        raise UserError(
            f"{setting} must be a folder that can be written, got {folder}: {error.strerror or error}"
            f"{_free(folder, error.errno)}. {_fix(error.errno)}, or choose another {setting}"
        ) from error


@contextmanager
def explain_disk_faults(*folders: Path) -> Generator[None]:
    """Turns an error of the block that a disk has caused into a UserError that says what to do.

    `folders`: where the block writes. Errors of other places are left as they are, but for a full disk.
    """
    try:
        yield
    except Exception as error:  # whatever library wrote to the disk: every other error is raised again as it is
        for cause in _causes(error):
            if not isinstance(cause, UserError) and (number := _disk_fault(cause, folders)):
                raise UserError(_message(cause, number, folders)) from error
        raise


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error and all that led to it, also those that Ray packs: of a task, or of each worker of a training."""
    found: list[BaseException] = [error]
    for each in found:
        values = vars(each) if hasattr(each, "__dict__") else {}
        workers = values.get("worker_failures")
        packed = list(cast("dict[Any, Any]", workers).values()) if isinstance(workers, dict) else []
        for cause in (values.get("cause"), each.__cause__, each.__context__, *packed):
            if isinstance(cause, BaseException) and all(cause is not known for known in found):
                found.append(cause)
    yield from found


def _disk_fault(error: BaseException, folders: tuple[Path, ...]) -> int:
    """The number of the system error if a disk has caused it; 0 if not."""
    text = str(error)
    number = error.errno if isinstance(error, OSError) and error.errno else 0
    number = number or next((known for message, known in TEXTS.items() if message in text), 0)
    if number in FULL:
        return number
    names_folder = any(str(folder) in text for folder in folders)
    return number if number in (*REFUSED, errno.EIO) and names_folder else 0


def _message(error: BaseException, number: int, folders: tuple[Path, ...]) -> str:
    found = (re.search(f"{re.escape(str(folder))}[^'\"\n]*", str(error)) for folder in folders)
    named = next((match[0] for match in found if match), folders[0])
    file = Path(getattr(error, "filename", None) or named)
    file = file.with_name(finished_name(file.name))
    return (
        f"{file} cannot be written: {os.strerror(number)}{_free(file, number)}. What is complete is kept. "
        f"{_fix(number)}, then give the same command again: it continues"
    )


def _free(folder: Path, number: int | None) -> str:
    """', 12.3 MB are free there' of the disk of a folder that is full; '' if it is not full, or that is not known."""
    if number not in FULL:
        return ""
    for path in (folder, *folder.parents):
        with suppress(OSError):
            return f", {shutil.disk_usage(path).free / 1e6:,.1f} MB are free there"
    return ""


def _fix(number: int | None) -> str:
    return {
        **dict.fromkeys(FULL, "Make room on that disk"),
        errno.EIO: "Check that disk",
    }.get(number or 0, "Make the folder writable")

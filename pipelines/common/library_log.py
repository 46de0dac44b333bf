"""Keeps what libraries write to standard error in a file of the run, so that the terminal shows only our own lines.

Libraries write warnings through `warnings`, `logging`, `print` and, in C++, straight to file descriptor 2. All of them
end in that descriptor, so this module points it to a file. Messages to the user and tracebacks go to
`terminal.errors()`, which stays the terminal.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import BinaryIO, ClassVar

from pipelines.common import terminal

STDERR = 2
LOGGERS_ON_STDOUT = ("DeepSpeed",)
"""Loggers of libraries whose handlers write to standard output, where the results of a command go."""
PACKAGES = tuple(str(Path(__file__).parents[2] / name) + os.sep for name in ("actors", "pipelines", "cluster"))
"""Folders of our own modules, whose log messages are for the user."""


class LibraryLog:
    """A file that replaces standard error. It starts as a temporary file, because a run directory may not exist yet."""

    active: ClassVar[LibraryLog | None] = None
    """The one of this process: it has one file descriptor 2."""

    def __init__(self, title: str) -> None:
        """Points standard error to the file. `title`: the command, which is noted when the first line is moved."""
        self._title = title
        self._file: BinaryIO = tempfile.TemporaryFile()  # noqa: SIM115 - it is closed in `close`
        self._saved = os.dup(STDERR)
        self._stream = os.fdopen(os.dup(STDERR), "w", buffering=1, encoding="utf-8", errors="backslashreplace")
        self.path: Path | None = None
        sys.stderr.flush()
        os.dup2(self._file.fileno(), STDERR)
        terminal.Terminal.errors = self._stream

    @property
    def is_empty(self) -> bool:
        """Whether nothing was written yet."""
        sys.stderr.flush()
        return self.path is None and os.fstat(self._file.fileno()).st_size == 0

    def move(self, path: Path) -> None:
        """Moves the lines so far to the end of the file `path`, and appends the following ones to it."""
        if self.path == path:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        target = path.open("ab")
        sys.stderr.flush()
        target.write(f"── {time.strftime('%Y-%m-%d %H:%M:%S')} {self._title}\n".encode())
        self._file.seek(0)
        if self.path is None:
            shutil.copyfileobj(self._file, target)
        target.flush()
        os.dup2(target.fileno(), STDERR)
        self._file.close()
        self._file, self.path = target, path

    def close(self) -> None:
        """Points standard error to the terminal again."""
        sys.stderr.flush()
        os.dup2(self._saved, STDERR)
        os.close(self._saved)
        terminal.Terminal.errors = None
        self._stream.close()
        self._file.close()


def start(title: str) -> None:
    """Redirects standard error of this process and of its children, and sorts the messages of `logging`."""
    if LibraryLog.active or not _is_redirectable():
        return
    LibraryLog.active = LibraryLog(title)
    root = logging.getLogger()
    root.addHandler(_OwnMessages())
    root.addHandler(_LibraryMessages())
    for name in LOGGERS_ON_STDOUT:
        logging.getLogger(name).addFilter(_to_stderr)
    logging.captureWarnings(True)


def move(path: Path, if_written: bool = False) -> None:
    """Keeps the lines in the file `path` from now on. Does nothing if standard error is not redirected.

    `if_written`: only if there are lines so far.
    """
    log = LibraryLog.active
    if log and not (if_written and log.is_empty):
        with contextlib.suppress(OSError):  # a full disk or a read-only folder must not end a command that only reads
            log.move(path)


def stop() -> Path | None:
    """Ends the redirection. Returns the file with the libraries' messages, if there is one."""
    log, LibraryLog.active = LibraryLog.active, None
    if log is None:
        return None
    log.close()
    root = logging.getLogger()
    for handler in [handler for handler in root.handlers if isinstance(handler, (_OwnMessages, _LibraryMessages))]:
        root.removeHandler(handler)
    return log.path


def _is_redirectable() -> bool:
    """Whether standard error is file descriptor 2. In tests and notebooks it may be another object."""
    try:
        return sys.stderr.fileno() == STDERR
    except (AttributeError, OSError, ValueError):
        return False


def _is_own(record: logging.LogRecord) -> bool:
    return record.pathname.startswith(PACKAGES)


class _OwnMessages(logging.Handler):
    """Shows messages of our own modules to the user."""

    def emit(self, record: logging.LogRecord) -> None:
        """Prints warnings and errors; less is not for the user."""
        if _is_own(record) and record.levelno >= logging.WARNING:
            terminal.print_warning(record.getMessage())


class _LibraryMessages(logging.StreamHandler):  # pyright: ignore[reportMissingTypeArgument]
    """Writes messages of libraries to standard error, which is the file."""

    def __init__(self) -> None:
        super().__init__(sys.stderr)
        self.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        """Writes a record, unless it is our own."""
        if not _is_own(record):
            super().emit(record)


def _to_stderr(record: logging.LogRecord) -> bool:
    """A filter of a logger that writes to standard output: writes the record to standard error instead."""
    print(f"{record.levelname} {record.name}: {record.getMessage()}", file=sys.stderr, flush=True)
    return False

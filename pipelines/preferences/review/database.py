"""The SQLite file of a review.

Every change is one transaction. It is flushed to disk before it is acknowledged, so a server that is killed never loses
a vote that the browser knows to be saved. The journal is a plain file beside the database and not a write-ahead log,
because a log needs memory that processes share, and network file systems have none.
"""

from __future__ import annotations

import os
import secrets
import sqlite3
import threading
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from conf import UserError
from pipelines.preferences.review.schema import update_schema

_BUSY_SECONDS = 20.0  # how long a change waits for another process


class DatabaseUnavailableError(UserError):
    """The file cannot be read or written at the moment, e.g. because the disk is full. Nothing was changed."""


class Database:
    """One connection. Several threads can share it, and other processes can have connections to the same file.

    Every method raises DatabaseUnavailableError if the file cannot be read or written.
    """

    def __init__(self, path: Path) -> None:
        """Opens the file, and creates it, readable by its owner only, if there is none.

        Raises UserError if it is not the database of a review, is damaged, or cannot be read and written.
        """
        self._path, self._lock = path, threading.RLock()
        with self._naming_errors():
            _create_private(path)
            self._connection = sqlite3.connect(
                path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False
            )
        try:
            with self._naming_errors():
                self._connection.row_factory = sqlite3.Row
                self._connection.execute("PRAGMA journal_mode = TRUNCATE")
                self._connection.execute("PRAGMA synchronous = FULL")
                with self.transaction():
                    update_schema(self._connection)
                    self.run("INSERT OR IGNORE INTO meta VALUES ('secret', ?)", secrets.token_hex(32))
            self.secret = bytes.fromhex(self.one("SELECT value FROM meta WHERE key = 'secret'")["value"])
        except BaseException:
            self._connection.close()
            raise

    secret: bytes
    """A random key of this review. It determines which image of a pair an annotator sees first."""

    def close(self) -> None:
        """Closes the file."""
        with self._lock:
            self._connection.close()

    @contextmanager
    def transaction(self) -> Generator[None]:
        """A transaction, one at a time over all threads and processes. It is on disk when the block ends."""
        with self._lock, self._naming_errors():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:  # if the disk is full, SQLite has ended it already
                    self._connection.execute("ROLLBACK")
                raise

    def run(self, statement: str, *values: object, **named: object) -> None:
        """Executes a statement, in the open transaction if there is one."""
        with self._lock, self._naming_errors():
            self._connection.execute(statement, named or values)

    def all(self, query: str, *values: object, **named: object) -> list[sqlite3.Row]:
        """All rows of a query."""
        with self._lock, self._naming_errors():
            return self._connection.execute(query, named or values).fetchall()

    def one(self, query: str, *values: object, **named: object) -> sqlite3.Row:
        """The first row of a query. Raises IndexError if it has none."""
        return self.all(query, *values, **named)[0]

    @contextmanager
    def _naming_errors(self) -> Generator[None]:
        """Raises DatabaseUnavailableError, with the file and what to do, for errors that are not ours."""
        try:
            yield
        except (sqlite3.IntegrityError, sqlite3.ProgrammingError):  # ours
            raise
        except (OSError, sqlite3.Error) as error:
            raise DatabaseUnavailableError(_unavailable(self._path, error)) from error


def _create_private(path: Path) -> None:
    """Creates the file with permissions for its owner only, and takes those of others from an older file.

    SQLite gives its journal the permissions of the database.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600))
    elif path.is_file() and path.stat().st_uid == os.geteuid() and path.stat().st_mode & 0o077:
        path.chmod(0o600)


def _unavailable(path: Path, error: Exception) -> str:
    """The message for an error of the file."""
    if isinstance(error, sqlite3.DatabaseError) and not isinstance(error, sqlite3.OperationalError):
        fix = "restore a copy of the file. To begin a new review, without its votes, move it away"
    elif "locked" in str(error):
        fix = "another program keeps it locked: end that program"
    else:
        fix = "check that its folder exists and can be written, and that the disk is not full"
    return f"{path} cannot be used as the database of the review, got: {error}: {fix}"

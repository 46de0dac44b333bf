"""The SQLite file of a review.

Every change is one transaction in a write-ahead log. The log is flushed to disk before the change is acknowledged, so
a server that is killed never loses a vote that the browser knows to be saved.
"""

from __future__ import annotations

import secrets
import sqlite3
import threading
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

_SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS sessions (digest TEXT PRIMARY KEY, annotator TEXT NOT NULL, csrf TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS pairs (
    pair_id TEXT PRIMARY KEY, position INTEGER NOT NULL, gold INTEGER NOT NULL, listed INTEGER NOT NULL DEFAULT 1,
    status TEXT NOT NULL DEFAULT 'pending'
);
CREATE INDEX IF NOT EXISTS queue ON pairs (listed, gold, status, position);
CREATE TABLE IF NOT EXISTS votes (
    vote_id TEXT PRIMARY KEY, pair_id TEXT NOT NULL REFERENCES pairs, annotator TEXT NOT NULL, stage TEXT NOT NULL,
    winner TEXT NOT NULL, loser TEXT NOT NULL, verdict TEXT NOT NULL, first_side TEXT NOT NULL,
    seconds REAL NOT NULL, cast_at REAL NOT NULL, withdrawn INTEGER NOT NULL DEFAULT 0
);
CREATE UNIQUE INDEX IF NOT EXISTS one_vote ON votes (pair_id, annotator) WHERE NOT withdrawn;
CREATE INDEX IF NOT EXISTS by_annotator ON votes (annotator, cast_at);
CREATE TABLE IF NOT EXISTS leases (
    pair_id TEXT NOT NULL, annotator TEXT NOT NULL, until REAL NOT NULL, PRIMARY KEY (pair_id, annotator)
);
"""


class Database:
    """One connection. Several threads can share it, and other processes can have connections to the same file."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = threading.RLock()
        self._connection = sqlite3.connect(path, timeout=30.0, isolation_level=None, check_same_thread=False)
        self._connection.row_factory = sqlite3.Row
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute("PRAGMA synchronous = FULL")
        self._connection.executescript(_SCHEMA)
        self.run("INSERT OR IGNORE INTO meta VALUES ('secret', ?)", secrets.token_hex(32))

    def close(self) -> None:
        """Closes the file."""
        self._connection.close()

    @property
    def secret(self) -> bytes:
        """A random key of this review. It determines which image of a pair an annotator sees first."""
        return bytes.fromhex(self.one("SELECT value FROM meta WHERE key = 'secret'")["value"])

    @contextmanager
    def transaction(self) -> Generator[None]:
        """A transaction, one at a time over all threads and processes. It is on disk when the block ends."""
        with self._lock:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self._connection.execute("ROLLBACK")
                raise
            self._connection.execute("COMMIT")

    def run(self, statement: str, *values: object) -> None:
        """Executes a statement, in the open transaction if there is one."""
        with self._lock:
            self._connection.execute(statement, values)

    def all(self, query: str, *values: object, **named: object) -> list[sqlite3.Row]:
        """All rows of a query."""
        with self._lock:
            return self._connection.execute(query, named or values).fetchall()

    def one(self, query: str, *values: object, **named: object) -> sqlite3.Row:
        """The first row of a query. Raises IndexError if it has none."""
        return self.all(query, *values, **named)[0]

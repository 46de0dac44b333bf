"""The SQLite file of a review.

Every change is one transaction in a write-ahead log that is flushed to disk before it is acknowledged, so a server
killed at any moment has lost nothing that a browser was told is saved.
"""

from __future__ import annotations

import secrets
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS sessions (digest TEXT PRIMARY KEY, reviewer TEXT NOT NULL, csrf TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS pairs (
    pair_id TEXT PRIMARY KEY, position INTEGER NOT NULL, gold INTEGER NOT NULL, listed INTEGER NOT NULL DEFAULT 1,
    status TEXT NOT NULL DEFAULT 'pending'
);
CREATE INDEX IF NOT EXISTS queue ON pairs (listed, gold, status, position);
CREATE TABLE IF NOT EXISTS votes (
    vote_id TEXT PRIMARY KEY, pair_id TEXT NOT NULL REFERENCES pairs, reviewer TEXT NOT NULL, stage TEXT NOT NULL,
    winner TEXT NOT NULL, loser TEXT NOT NULL, verdict TEXT NOT NULL, first_side TEXT NOT NULL,
    seconds REAL NOT NULL, cast_at REAL NOT NULL, withdrawn INTEGER NOT NULL DEFAULT 0
);
CREATE UNIQUE INDEX IF NOT EXISTS one_vote ON votes (pair_id, reviewer) WHERE NOT withdrawn;
CREATE INDEX IF NOT EXISTS by_reviewer ON votes (reviewer, cast_at);
CREATE TABLE IF NOT EXISTS leases (
    pair_id TEXT NOT NULL, reviewer TEXT NOT NULL, until REAL NOT NULL, PRIMARY KEY (pair_id, reviewer)
);
"""


class Database:
    """One connection. Safe to use from several threads, and beside those of other processes."""

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
        """Drawn once for this review: keys the shuffling of sides."""
        return bytes.fromhex(self.one("SELECT value FROM meta WHERE key = 'secret'")["value"])

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing, one at a time over all threads and processes. On disk when it ends."""
        with self._lock:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self._connection.execute("ROLLBACK")
                raise
            self._connection.execute("COMMIT")

    def run(self, statement: str, *values: object) -> None:
        """Executes a statement: by itself, or in the transaction that is open."""
        with self._lock:
            self._connection.execute(statement, values)

    def all(self, query: str, *values: object, **named: object) -> list[sqlite3.Row]:
        """All rows of a query."""
        with self._lock:
            return self._connection.execute(query, named or values).fetchall()

    def one(self, query: str, *values: object, **named: object) -> sqlite3.Row:
        """The first row of a query that has one."""
        return self.all(query, *values, **named)[0]

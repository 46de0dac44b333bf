"""The tables of a review's SQLite file, and how a file of an older version is brought up to date."""

from __future__ import annotations

import sqlite3

VERSION = 3
APPLICATION_ID = int.from_bytes(b"T2IR")
"""Marks the file as a review of this project, so that another program's database is never changed."""

_SESSIONS = (
    "CREATE TABLE sessions (digest TEXT PRIMARY KEY, annotator TEXT NOT NULL, link TEXT NOT NULL, csrf TEXT NOT NULL, "
    "created REAL NOT NULL)"
)
# Rows are numbered as they arrive. The number tells the order of the votes, which a clock that is set back does not.
_VOTES = (
    "CREATE TABLE votes (number INTEGER PRIMARY KEY, vote_id TEXT NOT NULL, pair_id TEXT NOT NULL REFERENCES pairs, "
    "annotator TEXT NOT NULL, stage TEXT NOT NULL, winner TEXT NOT NULL, loser TEXT NOT NULL, verdict TEXT NOT NULL, "
    "first_side TEXT NOT NULL, seconds REAL NOT NULL, cast_at REAL NOT NULL, withdrawn INTEGER NOT NULL DEFAULT 0, "
    "bad_prompt INTEGER NOT NULL DEFAULT 0, note TEXT NOT NULL DEFAULT '', UNIQUE (annotator, vote_id))"
)
# What decides a pair, what has been decided, and what is asked next. `rule` is "" until the queue is filled.
_CLAIM_COLUMNS = (
    "rule TEXT NOT NULL DEFAULT ''",
    "tier TEXT",
    "asked TEXT NOT NULL DEFAULT '[[], []]'",
    "wanted INTEGER NOT NULL DEFAULT 1",
)
_LEASES = (
    "CREATE TABLE leases (pair_id TEXT NOT NULL, annotator TEXT NOT NULL, until REAL NOT NULL, "
    "ahead INTEGER NOT NULL DEFAULT 0, PRIMARY KEY (pair_id, annotator))"  # ahead: not on the screen yet, but next
)
_NEW_TABLES = (
    "CREATE TABLE annotators (name TEXT PRIMARY KEY, stage TEXT NOT NULL)",
    _SESSIONS,
    _VOTES,
    "CREATE UNIQUE INDEX one_vote ON votes (pair_id, annotator) WHERE NOT withdrawn",
    "CREATE INDEX by_annotator ON votes (annotator, number)",
    f"PRAGMA application_id = {APPLICATION_ID}",
    f"PRAGMA user_version = {VERSION}",
)
_CREATE = (
    "CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL)",
    "CREATE TABLE pairs (pair_id TEXT PRIMARY KEY, position INTEGER NOT NULL, gold INTEGER NOT NULL, "
    f"listed INTEGER NOT NULL DEFAULT 1, status TEXT NOT NULL DEFAULT 'pending', {', '.join(_CLAIM_COLUMNS)})",
    "CREATE INDEX queue ON pairs (listed, gold, status, position)",
    _LEASES,
    *_NEW_TABLES,
)
_VOTE_COLUMNS = "vote_id, pair_id, annotator, stage, winner, loser, verdict, first_side, seconds, cast_at, withdrawn"
_ADD_CLAIMS = (
    "DROP TABLE leases",
    _LEASES,
    *(f"ALTER TABLE pairs ADD COLUMN {column}" for column in _CLAIM_COLUMNS),
    "UPDATE pairs SET status = 'pending' WHERE gold",
)
# Sessions of version 1 did not record their login link, so they end. Votes keep their order.
_FROM_VERSION_1 = (
    "DROP TABLE sessions",
    "DROP INDEX one_vote",
    "DROP INDEX by_annotator",
    "ALTER TABLE votes RENAME TO votes_1",
    *_NEW_TABLES,
    f"INSERT INTO votes ({_VOTE_COLUMNS}) SELECT {_VOTE_COLUMNS} FROM votes_1 ORDER BY rowid",
    "DROP TABLE votes_1",
    *_ADD_CLAIMS,
)
# Votes of version 2 answer one claim about all objects. They are translated when the queue is filled.
_FROM_VERSION_2 = (
    "ALTER TABLE votes ADD COLUMN bad_prompt INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE votes ADD COLUMN note TEXT NOT NULL DEFAULT ''",
    *_ADD_CLAIMS,
    f"PRAGMA user_version = {VERSION}",
)
_TABLES_OF_VERSION_1 = {"meta", "sessions", "pairs", "votes", "leases"}


def update_schema(connection: sqlite3.Connection) -> None:
    """Creates the tables in an empty file, and updates a file of an older version. Must run in a transaction.

    Raises sqlite3.DatabaseError if the file is damaged, belongs to another program, or is of a newer version.
    """
    (damage,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    if damage != "ok":
        raise sqlite3.DatabaseError(damage)
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if application == APPLICATION_ID and version > VERSION:
        raise sqlite3.DatabaseError(f"it is of version {version}, and this program knows version {VERSION}")
    if application == APPLICATION_ID and version == VERSION:
        return
    if application == APPLICATION_ID:
        statements = _FROM_VERSION_2
    elif tables - {"sqlite_sequence"} in (set(), _TABLES_OF_VERSION_1):
        statements = _FROM_VERSION_1 if tables else _CREATE
    else:
        raise sqlite3.DatabaseError(f"it holds tables of another program: {', '.join(sorted(tables))}")
    for statement in statements:
        connection.execute(statement)

"""The file of a review: private, whole after faults of the disk, and refused with one message if it is not ours."""

from __future__ import annotations

import os
import sqlite3
import stat
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from conf import UserError
from pipelines.preferences.claims import Answer, ClaimRule
from pipelines.preferences.review.annotation import Annotation, Asked
from pipelines.preferences.review.database import Database, DatabaseUnavailableError
from pipelines.preferences.review.schema import APPLICATION_ID, VERSION
from pipelines.preferences.review.store import Store
from pipelines.preferences.review.votes import Decision, QueueEntry, Vote

RULE = ClaimRule("perturbed", objects=0, relations=0, changed=(), n_perturb=0)

# The schema of version 0.2.0, with two votes that a clock which was set back has put in the wrong order.
VERSION_1 = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE sessions (digest TEXT PRIMARY KEY, annotator TEXT NOT NULL, csrf TEXT NOT NULL);
CREATE TABLE pairs (
    pair_id TEXT PRIMARY KEY, position INTEGER NOT NULL, gold INTEGER NOT NULL, listed INTEGER NOT NULL DEFAULT 1,
    status TEXT NOT NULL DEFAULT 'pending'
);
CREATE INDEX queue ON pairs (listed, gold, status, position);
CREATE TABLE votes (
    vote_id TEXT PRIMARY KEY, pair_id TEXT NOT NULL REFERENCES pairs, annotator TEXT NOT NULL, stage TEXT NOT NULL,
    winner TEXT NOT NULL, loser TEXT NOT NULL, verdict TEXT NOT NULL, first_side TEXT NOT NULL,
    seconds REAL NOT NULL, cast_at REAL NOT NULL, withdrawn INTEGER NOT NULL DEFAULT 0
);
CREATE UNIQUE INDEX one_vote ON votes (pair_id, annotator) WHERE NOT withdrawn;
CREATE INDEX by_annotator ON votes (annotator, cast_at);
CREATE TABLE leases (
    pair_id TEXT NOT NULL, annotator TEXT NOT NULL, until REAL NOT NULL, PRIMARY KEY (pair_id, annotator)
);
INSERT INTO meta VALUES ('secret', 'abcd');
INSERT INTO sessions VALUES ('digest', 'ann', 'csrf');
INSERT INTO pairs (pair_id, position, gold) VALUES ('a', 0, 0), ('b', 1, 0);
INSERT INTO votes VALUES ('z', 'a', 'ann', 'review', '["yes"]', '["no"]', 'accept', 'w', 1.0, 2000.0, 0);
INSERT INTO votes VALUES ('y', 'b', 'ann', 'review', '["yes"]', '["no"]', 'accept', 'w', 1.0, 1000.0, 0);
INSERT INTO votes VALUES ('x', 'b', 'ben', 'review', '["yes"]', '["no"]', 'accept', 'w', 1.0, 1500.0, 1);
"""


def _write_sqlite(path: Path, script: str) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(script)


def _filled(path: Path) -> None:
    with closing(Database(path)) as database:
        Store(database, 2, 60.0).fill(QueueEntry(f"pair-{i}" * 20, RULE) for i in range(500))


def _cut(path: Path) -> None:
    _filled(path)
    os.truncate(path, path.stat().st_size // 2)


def _overwritten(path: Path) -> None:
    _filled(path)
    content = bytearray(path.read_bytes())
    content[8192:20480] = os.urandom(12288)
    path.write_bytes(content)


HEADER = f"PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {VERSION + 1};"
UNUSABLE: dict[str, tuple[Callable[[Path], object], str]] = {
    "text": (lambda path: path.write_text("garbage " * 1000), "file is not a database: restore a copy"),
    "noise": (lambda path: path.write_bytes(os.urandom(5000)), "file is not a database: restore a copy"),
    "cut": (_cut, "malformed|not a database|page|restore a copy"),
    "overwritten": (_overwritten, "restore a copy"),
    "folder": (lambda path: path.mkdir(), "check that its folder exists and can be written"),
    "of another program": (lambda path: _write_sqlite(path, "CREATE TABLE songs (x)"), "another program: songs"),
    "newer": (lambda path: _write_sqlite(path, HEADER + "CREATE TABLE t (x)"), f"it is of version {VERSION + 1}"),
}


@pytest.mark.parametrize("name", UNUSABLE)
def test_a_file_that_is_no_review_is_one_message_and_stays_as_it_is(tmp_path: Path, name: str) -> None:
    path = tmp_path / "review.sqlite"
    damage, expected = UNUSABLE[name]
    damage(path)
    before = path.read_bytes() if path.is_file() else b""
    with pytest.raises(UserError, match=expected) as error:
        Database(path)
    assert str(path) in str(error.value)
    assert (path.read_bytes() if path.is_file() else b"") == before


def test_a_folder_that_cannot_be_written_is_one_message(tmp_path: Path) -> None:
    (tmp_path / "review").write_text("a file where the folder should be")
    with pytest.raises(UserError, match="check that its folder exists and can be written"):
        Database(tmp_path / "review" / "review.sqlite")


@pytest.mark.parametrize("older_mode", [None, 0o644, 0o666])
def test_only_the_owner_can_read_the_file(tmp_path: Path, older_mode: int | None) -> None:
    path = tmp_path / "review.sqlite"
    if older_mode:
        _write_sqlite(path, VERSION_1)
        path.chmod(older_mode)
    with closing(Database(path)) as database, database.transaction():
        database.run("INSERT INTO leases VALUES ('a', 'ann', 1, 0)")
        modes = {one.name: stat.S_IMODE(one.stat().st_mode) for one in tmp_path.iterdir()}
        assert set(modes) == {"review.sqlite", "review.sqlite-journal"}, "and nothing that needs shared memory"
        assert set(modes.values()) == {0o600}, modes


def test_the_votes_of_an_older_version_are_kept_in_the_order_in_which_they_were_cast(tmp_path: Path) -> None:
    path = tmp_path / "review.sqlite"
    _write_sqlite(path, VERSION_1)
    for _ in range(2):
        with closing(Database(path)) as database:
            assert database.secret == bytes.fromhex("abcd"), "the sides stay where annotators saw them"
            assert not database.all("SELECT * FROM sessions"), "their login link is not known"
            store = Store(database, 1, 60.0)
            assert [vote.vote_id for vote in store.votes()] == ["z", "y"]
            assert database.one("SELECT count(*) AS n FROM votes")["n"] == 3, "withdrawn votes are kept, too"
    with closing(Database(path)) as database:
        store = Store(database, 1, 60.0)
        store.fill([QueueEntry("a", RULE), QueueEntry("b", RULE)])
        assert store.withdraw("ann", "review").vote_id == "y", "the last vote, although its time is earlier"


def test_a_full_disk_loses_nothing_and_needs_no_restart(tmp_path: Path) -> None:
    with closing(Database(tmp_path / "review.sqlite")) as database:
        store = Store(database, 2, 60.0)
        store.fill([QueueEntry("a", RULE)])
        store.lease("ann", "review")
        pages = database.one("PRAGMA page_count")["page_count"]
        database.run(f"PRAGMA max_page_count = {pages}")  # SQLite then answers as it does on a full disk
        answers: tuple[Answer, ...] = ("yes",) * 2000
        vote = Vote("long vote", "a", "ann", "review", Annotation(answers, answers), "reject", "w", 1.0, 1.0)
        for _ in range(3):
            with pytest.raises(DatabaseUnavailableError, match="the disk is not full"):
                store.cast(vote)
        assert not store.votes()
        database.run("PRAGMA max_page_count = 1000000")
        store.cast(vote)
        assert store.votes() == [vote]


# Version 2: one answer about all objects, then one for each relation.
VERSION_2 = f"""
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE pairs (pair_id TEXT PRIMARY KEY, position INTEGER NOT NULL, gold INTEGER NOT NULL,
    listed INTEGER NOT NULL DEFAULT 1, status TEXT NOT NULL DEFAULT 'pending');
CREATE INDEX queue ON pairs (listed, gold, status, position);
CREATE TABLE leases (pair_id TEXT NOT NULL, annotator TEXT NOT NULL, until REAL NOT NULL,
    PRIMARY KEY (pair_id, annotator));
CREATE TABLE annotators (name TEXT PRIMARY KEY, stage TEXT NOT NULL);
CREATE TABLE sessions (digest TEXT PRIMARY KEY, annotator TEXT NOT NULL, link TEXT NOT NULL, csrf TEXT NOT NULL,
    created REAL NOT NULL);
CREATE TABLE votes (number INTEGER PRIMARY KEY, vote_id TEXT NOT NULL, pair_id TEXT NOT NULL REFERENCES pairs,
    annotator TEXT NOT NULL, stage TEXT NOT NULL, winner TEXT NOT NULL, loser TEXT NOT NULL, verdict TEXT NOT NULL,
    first_side TEXT NOT NULL, seconds REAL NOT NULL, cast_at REAL NOT NULL, withdrawn INTEGER NOT NULL DEFAULT 0,
    UNIQUE (annotator, vote_id));
CREATE UNIQUE INDEX one_vote ON votes (pair_id, annotator) WHERE NOT withdrawn;
CREATE INDEX by_annotator ON votes (annotator, number);
INSERT INTO meta VALUES ('secret', 'abcd');
INSERT INTO pairs (pair_id, position, gold, status) VALUES ('a', 0, 0, 'accepted'), ('b', 1, 0, 'rejected');
INSERT INTO votes (vote_id, pair_id, annotator, stage, winner, loser, verdict, first_side, seconds, cast_at) VALUES
    ('a1', 'a', 'ann', 'review', '["yes", "yes"]', '["yes", "no"]', 'accept', 'w', 1.0, 1.0),
    ('a2', 'a', 'ben', 'review', '["yes", "yes"]', '["yes", "no"]', 'accept', 'w', 1.0, 1.0),
    ('b1', 'b', 'ann', 'review', '["no", "yes"]', '["yes", "no"]', 'reject', 'w', 1.0, 1.0),
    ('b2', 'b', 'ben', 'review', '["no", "yes"]', '["yes", "no"]', 'reject', 'w', 1.0, 1.0);
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = 2;
"""


def test_votes_of_version_2_are_translated_to_one_answer_for_each_object(tmp_path: Path) -> None:
    path = tmp_path / "review.sqlite"
    _write_sqlite(path, VERSION_2)
    rule = ClaimRule("perturbed", objects=2, relations=1, changed=(2,), n_perturb=1)
    for _ in range(2):
        with closing(Database(path)) as database:
            store = Store(database, 2, 60.0)
            store.fill([QueueEntry("a", rule), QueueEntry("b", rule)])
            assert store.decisions() == {"a": Decision("accepted", "strict"), "b": Decision("disputed", None)}
            winners = [vote.annotation.winner for vote in store.votes()]
            assert winners[1:3] == [("yes",) * 3, ("unsure", "unsure", "yes")]
            assert store.asked("b") == Asked((0, 1), ()), "no told of an object, but not of which"

"""Which votes the store accepts: one for each place on a pair, from the annotator who has the pair on the screen."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from pipelines.preferences.review.annotation import Annotation, Verdict
from pipelines.preferences.review.database import Database
from pipelines.preferences.review.store import Store
from pipelines.preferences.review.votes import (
    AlreadyVotedError,
    NothingToUndoError,
    NotOpenError,
    QueueEntry,
    ReviewStage,
    Vote,
)

YES, NO = ("yes", "yes"), ("yes", "no")


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = Database(tmp_path / "review.sqlite")
    yield opened
    opened.close()


@pytest.fixture
def store(database: Database) -> Store:
    """Two pairs, each for two annotators."""
    made = Store(database, 2, 600.0)
    made.fill([QueueEntry("a", gold=False), QueueEntry("b", gold=False)])
    return made


def _vote(
    name: str, pair_id: str = "a", verdict: Verdict = "accept", stage: ReviewStage = "review", vote_id: str = ""
) -> Vote:
    vote_id = vote_id or f"{name} on {pair_id}"
    return Vote(vote_id, pair_id, name, stage, Annotation(YES, NO), verdict, "w", 3.0, time.time())


def _review(store: Store, name: str, verdict: Verdict = "accept") -> str:
    """Votes on the annotator's next pair. Returns its id."""
    pair_id = store.lease(name, "review", want_gold=False)
    assert pair_id
    store.cast(_vote(name, pair_id, verdict))
    return pair_id


@pytest.mark.parametrize("stage", ["review", "adjudication"])
def test_a_vote_needs_the_pair_on_the_screen(store: Store, stage: ReviewStage) -> None:
    if stage == "adjudication":
        for name, verdict in (("ann", "accept"), ("ben", "reject")):
            _review(store, name, verdict)
    with pytest.raises(NotOpenError, match="a is not on the screen of dan"):
        store.cast(_vote("dan", stage=stage))
    assert store.lease("dan", stage, want_gold=False) == "a"
    store.cast(_vote("dan", stage=stage))
    assert [vote.annotator for vote in store.votes_on("a")][-1] == "dan"


@pytest.mark.parametrize("second", ["accept", "reject"])
def test_a_pair_with_all_its_votes_takes_no_further_one(store: Store, database: Database, second: Verdict) -> None:
    slow = Store(database, 2, -1.0)  # its leases have ended
    assert slow.lease("cat", "review", want_gold=False) == "a"
    assert _review(store, "ann") == _review(store, "ben", second) == "a"
    before = store.status("a")
    for late in (slow, store):
        with pytest.raises(NotOpenError, match="decided in the meantime"):
            late.cast(_vote("cat", verdict="reject"))
        with pytest.raises(NotOpenError, match="decided in the meantime"):
            late.cast(_vote("label-studio-1", verdict="reject"), needs_lease=False)
    assert store.status("a") == before and len(store.votes_on("a")) == 2


def test_a_vote_after_its_lease_counts_if_nobody_took_the_place(store: Store, database: Database) -> None:
    slow = Store(database, 2, -1.0)
    slow.lease("cat", "review", want_gold=False)
    _review(store, "ann")
    assert store.lease("ben", "review", want_gold=False) == "a", "the second place"
    with pytest.raises(NotOpenError):
        store.cast(_vote("cat"))
    store.cast(_vote("ben"))
    store.withdraw("ben", "review")
    database.run("UPDATE leases SET until = 0")
    store.cast(_vote("cat"))
    assert store.status("a") == "accepted"


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"pair_id": "b"}, "another pair"),
        ({"annotation": Annotation(NO, YES)}, "other answers"),
        ({"stage": "adjudication"}, "another stage"),
    ],
)
def test_only_the_same_vote_is_acknowledged_again(store: Store, changed: dict[str, object], why: str) -> None:
    store.lease("ann", "review", want_gold=False)
    vote = _vote("ann", vote_id="one-and-the-same")
    store.cast(vote)
    store.cast(vote)
    with pytest.raises(AlreadyVotedError):
        store.cast(replace(vote, **changed))  # type: ignore[arg-type]
    assert len(store.votes()) == 1, why


def test_a_vote_under_the_id_of_another_annotators_vote_is_saved(store: Store) -> None:
    for name in ("ann", "ben"):
        store.lease(name, "review", want_gold=False)
        store.cast(_vote(name, vote_id="the same id"))
    assert [vote.annotator for vote in store.votes_on("a")] == ["ann", "ben"]


def test_a_withdrawn_vote_that_arrives_again_is_not_acknowledged(store: Store) -> None:
    store.lease("ann", "review", want_gold=False)
    vote = _vote("ann")
    store.cast(vote)
    store.withdraw("ann", "review")
    with pytest.raises(AlreadyVotedError):
        store.cast(vote)
    assert not store.votes()


def test_undo_takes_the_vote_that_was_cast_last_whatever_the_clock_says(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.time()
    for back, pair_id in ((0, "a"), (86400, "b")):
        monkeypatch.setattr(time, "time", lambda back=back: now - back)
        assert _review(store, "ann") == pair_id
    assert [vote.pair_id for vote in store.votes()] == ["a", "b"]
    assert [store.withdraw("ann", "review").pair_id for _ in range(2)] == ["b", "a"]
    with pytest.raises(NothingToUndoError):
        store.withdraw("ann", "review")


def test_leases_of_a_clock_that_was_set_back_block_no_pair(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ann", "ben", "cat", "dan"):
        assert store.lease(name, "review", want_gold=False)
    assert store.lease("eve", "review", want_gold=False) is None
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now - 86400)
    assert store.lease("eve", "review", want_gold=False) == "a"
    store.cast(_vote("eve"))
    assert store.lease("ann", "review", want_gold=False) == "a"
    store.cast(_vote("ann"))


def test_a_change_of_the_number_of_votes_decides_waiting_pairs_and_keeps_decided_ones(
    store: Store, database: Database
) -> None:
    entries = [QueueEntry("a", gold=False), QueueEntry("b", gold=False)]
    assert _review(store, "ann") == _review(store, "ben") == "a"
    assert _review(store, "ann") == "b"
    three = Store(database, 3, 600.0)
    three.fill(entries)
    assert three.statuses() == {"a": "accepted", "b": "pending"}
    one = Store(database, 1, 600.0)
    one.fill(entries)
    assert one.statuses() == {"a": "accepted", "b": "accepted"}


def test_an_annotator_who_becomes_an_adjudicator_starts_with_disputed_pairs(store: Store) -> None:
    _review(store, "ann")
    assert store.lease("ann", "review", want_gold=False) == "b"
    assert store.lease("ann", "adjudication", want_gold=False) is None, "the pair on the screen is not disputed"
    with pytest.raises(NothingToUndoError):
        store.withdraw("ann", "adjudication")

"""Which votes the store accepts: one for each place on a pair, from the annotator who has the pair on the screen."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from pipelines.preferences.claims import ClaimRule
from pipelines.preferences.review.annotation import Annotation, Asked, Verdict
from pipelines.preferences.review.database import Database
from pipelines.preferences.review.store import Store
from pipelines.preferences.review.votes import (
    AlreadyVotedError,
    Decision,
    NothingToUndoError,
    NotOpenError,
    QueueEntry,
    ReviewStage,
    Vote,
    VoteCounts,
)

RULE = ClaimRule("perturbed", objects=1, relations=1, changed=(1,), n_perturb=1)
YES, NO = ("yes", "yes"), ("yes", "no")
ANSWERS: dict[Verdict, Annotation] = {
    "accept": Annotation(YES, NO),
    "reject": Annotation(NO, NO),
    "unsure": Annotation(("unsure", "unsure"), ("unsure", "unsure")),
}


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = Database(tmp_path / "review.sqlite")
    yield opened
    opened.close()


@pytest.fixture
def store(database: Database) -> Store:
    """Two pairs, each for two annotators."""
    made = Store(database, 2, 600.0)
    made.fill([QueueEntry("a", RULE), QueueEntry("b", RULE)])
    return made


def _vote(
    name: str, pair_id: str = "a", verdict: Verdict = "accept", stage: ReviewStage = "review", vote_id: str = ""
) -> Vote:
    vote_id = vote_id or f"{name} on {pair_id}"
    return Vote(vote_id, pair_id, name, stage, ANSWERS[verdict], verdict, "w", 3.0, time.time())


def _review(store: Store, name: str, verdict: Verdict = "accept") -> str:
    """Votes on the annotator's next pair. Returns its id."""
    pair_id = store.lease(name, "review")
    assert pair_id
    store.cast(_vote(name, pair_id, verdict))
    return pair_id


def _statuses(store: Store) -> dict[str, str]:
    return {pair_id: one.status for pair_id, one in store.decisions().items()}


@pytest.mark.parametrize("stage", ["review", "adjudication"])
def test_a_vote_needs_the_pair_on_the_screen(store: Store, stage: ReviewStage) -> None:
    if stage == "adjudication":
        for name, verdict in (("ann", "accept"), ("ben", "reject")):
            _review(store, name, verdict)
    with pytest.raises(NotOpenError, match="a is not on the screen of dan"):
        store.cast(_vote("dan", stage=stage))
    assert store.lease("dan", stage) == "a"
    store.cast(_vote("dan", stage=stage))
    assert [vote.annotator for vote in store.votes_on("a")][-1] == "dan"


@pytest.mark.parametrize("second", ["accept", "reject"])
def test_a_pair_with_all_its_votes_takes_no_further_one(store: Store, database: Database, second: Verdict) -> None:
    slow = Store(database, 2, -1.0)  # its leases have ended
    assert slow.lease("cat", "review") == "a"
    assert _review(store, "ann") == _review(store, "ben", second) == "a"
    before = store.decisions()["a"]
    for late in (slow, store):
        with pytest.raises(NotOpenError, match="decided in the meantime"):
            late.cast(_vote("cat", verdict="reject"))
        with pytest.raises(NotOpenError, match="decided in the meantime"):
            late.cast(_vote("label-studio-1", verdict="reject"), needs_lease=False)
    assert store.decisions()["a"] == before and len(store.votes_on("a")) == 2


def test_a_vote_after_its_lease_counts_if_nobody_took_the_place(store: Store, database: Database) -> None:
    slow = Store(database, 2, -1.0)
    slow.lease("cat", "review")
    _review(store, "ann")
    assert store.lease("ben", "review") == "a", "the second place"
    with pytest.raises(NotOpenError):
        store.cast(_vote("cat"))
    store.cast(_vote("ben"))
    store.withdraw("ben", "review")
    database.run("UPDATE leases SET until = 0")
    store.cast(_vote("cat"))
    assert store.decisions()["a"].status == "accepted"


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"pair_id": "b"}, "another pair"),
        ({"annotation": Annotation(NO, YES)}, "other answers"),
        ({"stage": "adjudication"}, "another stage"),
    ],
)
def test_only_the_same_vote_is_acknowledged_again(store: Store, changed: dict[str, object], why: str) -> None:
    store.lease("ann", "review")
    vote = _vote("ann", vote_id="one-and-the-same")
    store.cast(vote)
    store.cast(vote)
    with pytest.raises(AlreadyVotedError):
        store.cast(replace(vote, **changed))  # type: ignore[arg-type]
    assert len(store.votes()) == 1, why


def test_a_vote_under_the_id_of_another_annotators_vote_is_saved(store: Store) -> None:
    for name in ("ann", "ben"):
        store.lease(name, "review")
        store.cast(_vote(name, vote_id="the same id"))
    assert [vote.annotator for vote in store.votes_on("a")] == ["ann", "ben"]


def test_a_withdrawn_vote_that_arrives_again_is_not_acknowledged(store: Store) -> None:
    store.lease("ann", "review")
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
        assert store.lease(name, "review")
    assert store.lease("eve", "review") is None
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now - 86400)
    assert store.lease("eve", "review") == "a"
    store.cast(_vote("eve"))
    assert store.lease("ann", "review") == "a"
    store.cast(_vote("ann"))


def test_a_change_of_the_number_of_votes_decides_waiting_pairs_and_keeps_decided_ones(
    store: Store, database: Database
) -> None:
    entries = [QueueEntry("a", RULE), QueueEntry("b", RULE)]
    assert _review(store, "ann") == _review(store, "ben") == "a"
    assert _review(store, "ann") == "b"
    three = Store(database, 3, 600.0)
    three.fill(entries)
    assert _statuses(three) == {"a": "accepted", "b": "pending"}
    one = Store(database, 1, 600.0)
    one.fill(entries)
    assert _statuses(one) == {"a": "accepted", "b": "accepted"}


def test_an_annotator_who_becomes_an_adjudicator_starts_with_disputed_pairs(store: Store) -> None:
    _review(store, "ann")
    assert store.lease("ann", "review") == "b"
    assert store.lease("ann", "adjudication") is None, "the pair on the screen is not disputed"
    with pytest.raises(NothingToUndoError):
        store.withdraw("ann", "adjudication")


def test_an_adjudicator_is_asked_the_disputed_claims_only_and_settles_them(store: Store) -> None:
    _review(store, "ann")
    assert store.asked("a") == Asked((0, 1), (0, 1))
    _review(store, "ben", "reject")
    assert store.asked("a") == Asked((1,), ()), "they agree about everything else"
    assert store.lease("cat", "adjudication") == "a"
    incomplete = replace(_vote("cat", stage="adjudication"), annotation=Annotation(("yes", ""), ("", "")))
    with pytest.raises(NotOpenError, match="further claims of a have to be answered"):
        store.cast(incomplete)
    store.cast(replace(incomplete, annotation=Annotation(("", "yes"), ("", ""))))
    assert store.decisions()["a"] == Decision("accepted", "strict", adjudicated=True)


def test_voided_votes_open_their_pairs_again(store: Store) -> None:
    for name, verdict in (("ann", "accept"), ("ben", "reject")):
        _review(store, name, verdict)
    assert store.void(["ben"]) == 1
    assert store.decisions()["a"].status == "pending" and store.lease("cat", "review") == "a"
    store.cast(_vote("cat"))
    assert store.decisions()["a"] == Decision("accepted", "strict")
    assert [vote.annotator for vote in store.votes()] == ["ann", "cat"]


def test_the_next_pair_is_reserved_while_the_first_is_on_the_screen(store: Store) -> None:
    assert store.lease_ahead("ann", "review") is None, "nothing is on the screen"
    assert (store.lease("ann", "review"), store.lease_ahead("ann", "review")) == ("a", "b")
    assert store.lease("ann", "review") == "a", "a reload shows the same pair"
    assert store.lease("ben", "review") == "a" and store.lease_ahead("ben", "review") == "b"
    assert store.lease("cat", "review") is None, "both are reserved for two annotators"
    store.cast(_vote("ann"))
    assert store.lease("ann", "review") == "b"


def test_a_decided_pair_can_measure_annotators_and_stays_decided(store: Store) -> None:
    for name, verdict in (("ann", "accept"), ("ben", "reject")):
        _review(store, name, verdict)
    store.lease("cleo", "adjudication")
    store.cast(_vote("cleo", stage="adjudication"))
    before = store.decisions()["a"]
    store.fill([QueueEntry("a", RULE, gold=True), QueueEntry("b", RULE)])
    assert store.lease("dan", "review", "only") == "a" and store.lease("ann", "review", "only") is None
    store.cast(_vote("dan", verdict="reject"))
    assert store.votes()[-1].stage == "gold" and store.decisions()["a"] == before
    assert [vote.annotator for vote in store.gold_votes("dan")] == ["dan"] and not store.gold_votes("ann")
    assert store.counts("dan") == VoteCounts(1, 1)

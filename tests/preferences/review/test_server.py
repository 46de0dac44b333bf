"""The review as a process: nothing lost, nothing doubled, nobody let in who should not be."""

import itertools
import os
import signal
import sqlite3
import stat
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from conf import SettingsError, load
from pipelines.preferences.review.database import Database
from pipelines.preferences.review.pairs import PairSet
from pipelines.preferences.review.store import REVIEW, Entry, Store
from tests.preferences.review.conftest import Client, Server, answer, serving, write_pairs


def _work(client: Client, saved: list[str], pattern: tuple[str, ...] = ("yes",), until: int = 10**6) -> None:
    """Votes until nothing is left or the server is gone; `saved` are the pairs that the server acknowledged."""
    try:
        told = client.post("next").json()
        while told["sheet"] and len(saved) < until:
            sheet = told["sheet"]
            answered = client.post("vote", vote_id=uuid.uuid4().hex, **answer(sheet, pattern))
            if answered.status_code == 409:  # this reviewer's other window was faster
                told = client.post("next").json()
                continue
            assert answered.ok, answered.text
            saved.append(sheet["pair_id"])
            told = answered.json()
    except requests.ConnectionError:
        pass


def _votes(run_dir, *reviewers: str) -> list[tuple[str, str]]:
    """(reviewer, pair) of all votes, or these reviewers', that stand, read from the file itself."""
    with sqlite3.connect(run_dir / "review" / "review.sqlite") as database:
        votes = database.execute("SELECT reviewer, pair_id FROM votes WHERE NOT withdrawn").fetchall()
    return [vote for vote in votes if not reviewers or vote[0] in reviewers]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for tests that have reviewers of their own."""
    run_dir = tmp_path_factory.mktemp("shared")
    write_pairs(run_dir / "preferences", 40)
    people = ("review.annotators=[ann,ben,cat,dan,eve]", "review.annotators_per_pair=5", "review.gold_fraction=0")
    with serving(run_dir, *people) as server:
        yield server


def _winners_first(client: Client, run_dir: Path) -> dict[str, bool]:
    """Pair -> whether its winner was shown first, for all pairs."""
    pairs, shown = PairSet(run_dir / "preferences"), {}
    told = client.post("next").json()
    while sheet := told["sheet"]:
        first, second = (client.picture(path) for path in sheet["pictures"])
        sides = {side: pairs.image(sheet["pair_id"], side) for side in ("w", "l")}
        assert {first, second} == set(sides.values())
        shown[sheet["pair_id"]] = first == sides["w"]
        told = client.post("vote", vote_id=uuid.uuid4().hex, **answer(sheet)).json()
    return shown


def test_four_windows_at_once_lose_and_double_nothing(run_dir):
    people = ("review.annotators=[ann,ben,cat]", "review.adjudicators=[]", "review.gold_fraction=0")
    with serving(run_dir, *people) as server:
        windows = [server.client(name) for name in ("ann", "ben", "cat", "ann")]  # ann has two windows open
        saved: list[list[str]] = [[] for _ in windows]
        threads = [threading.Thread(target=_work, args=pair) for pair in zip(windows, saved, strict=True)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    votes = _votes(run_dir)
    assert len(set(votes)) == len(votes) == 2 * 40, "each pair has exactly two votes, by different people"
    acknowledged = [
        (name, pair) for name, mine in zip(("ann", "ben", "cat", "ann"), saved, strict=True) for pair in mine
    ]
    assert sorted(acknowledged) == sorted(votes)


def test_a_killed_server_has_lost_no_vote_that_it_acknowledged(run_dir):
    saved: dict[str, list[str]] = {"annotator_1": [], "annotator_2": []}
    with serving(run_dir) as server:
        clients = {name: server.client(name) for name in saved}
        _work(clients["annotator_1"], saved["annotator_1"], until=3)
        threads = [threading.Thread(target=_work, args=(clients[name], saved[name])) for name in saved]
        for thread in threads:
            thread.start()
        while len(saved["annotator_2"]) < 5:
            assert any(thread.is_alive() for thread in threads)
        os.kill(server.process.pid, signal.SIGKILL)
        for thread in threads:
            thread.join()
    done = {(name, pair) for name, pairs in saved.items() for pair in pairs}
    assert done <= set(_votes(run_dir)), "what was acknowledged is there"
    before = len(_votes(run_dir))
    assert 8 <= before < 80
    with serving(run_dir) as server:
        for name in saved:
            again = server.client(name)
            again.http.cookies.update(clients[name].http.cookies)  # the login outlives the server as well
            assert again.http.get(f"{server.address}/api/me", timeout=30).json()["reviewer"] == name
            _work(server.client(name), saved[name])
    votes = _votes(run_dir)
    assert len(set(votes)) == len(votes) == 2 * 38 + 2 * 2, "38 pairs twice, and the two gold ones by both"


def test_a_vote_sent_again_counts_once_and_an_undone_one_not_at_all(shared):
    client = shared.client("cat")
    sheet = client.post("next").json()["sheet"]
    vote = {"vote_id": uuid.uuid4().hex, **answer(sheet)}
    assert all(client.post("vote", **vote).ok for _ in range(2)) and len(_votes(shared.run_dir, "cat")) == 1
    other = client.post("vote", **{**vote, "vote_id": uuid.uuid4().hex})
    assert other.status_code == 409 and len(_votes(shared.run_dir, "cat")) == 1
    back = client.post("undo").json()["sheet"]
    assert (back["pair_id"], back["answers"]) == (sheet["pair_id"], [vote["first"], vote["second"]])
    assert not _votes(shared.run_dir, "cat") and client.post("undo").status_code == 409
    assert client.post("next").json()["sheet"]["pair_id"] == sheet["pair_id"], "the undone pair is on the screen"


def test_only_who_is_invited_gets_in_and_only_by_our_own_page(shared):
    mode = stat.S_IMODE((shared.run_dir / "review" / "invitations.txt").stat().st_mode)
    assert mode == 0o600
    stranger = requests.Session()
    for method, path in (
        ("get", "/api/me"),
        ("post", "/api/next"),
        ("get", "/picture/pair-00000001/x"),
        ("get", "/overview"),
    ):
        assert stranger.request(method, shared.address + path, timeout=30).status_code == 401, path
    assert stranger.post(f"{shared.address}/api/login", json={"token": "x"}, timeout=30).status_code == 401
    client = shared.client("ann")
    cookie = next(iter(client.http.cookies))
    assert cookie.has_nonstandard_attr("HttpOnly") and cookie.get_nonstandard_attr("SameSite") == "strict"
    for token in ("", "wrong", shared.client("ben").me["csrf"]):
        client.http.headers["X-CSRF-Token"] = token
        assert client.post("next").status_code == 403
    page = requests.get(shared.address, timeout=30)
    assert "default-src 'none'" in page.headers["Content-Security-Policy"]
    assert page.headers["X-Content-Type-Options"] == "nosniff"


def test_pictures_are_reached_by_the_keys_of_a_reviewers_own_sheets_only(shared):
    ann, ben = shared.client("ann"), shared.client("ben")
    sheet = ann.post("next").json()["sheet"]
    assert all(ann.picture(path).startswith(b"\x89PNG") for path in sheet["pictures"])
    assert "w" not in sheet and not {"changed", "winner", "kind", "gold"} & set(sheet), "the sheet is blind"
    for path in (
        sheet["pictures"][0],
        "/picture/../../etc/passwd",
        "/page/../app.py",
        f"/picture/{sheet['pair_id']}/w",
    ):
        assert ben.http.get(shared.address + path, timeout=30).status_code in (401, 404), path
    bad = [{"pair_id": "pair-99999999"}, {"first": ["yes"]}, {"second": ["perhaps"] * len(sheet["claims"])}]
    for wrong in bad:
        refused = ann.post("vote", **{"vote_id": uuid.uuid4().hex, **answer(sheet), **wrong})
        assert refused.status_code == 422, refused.text
    assert not _votes(shared.run_dir, "ann", "ben")


def test_sides_are_shuffled_for_each_reviewer_and_stay_as_they_are(shared):
    sides = {name: _winners_first(shared.client(name), shared.run_dir) for name in ("dan", "eve")}
    for shown in sides.values():
        assert 8 <= sum(shown.values()) <= 32, "the winner comes first about as often as not"
    assert sides["dan"] != sides["eve"]


def test_an_adjudicator_gets_the_disputed_pairs_and_has_the_last_word(run_dir):
    with serving(run_dir, "review.gold_fraction=0") as server:
        judge = server.client("adjudicator")
        assert judge.post("next").json()["sheet"] is None
        yes, no = server.client("annotator_1"), server.client("annotator_2")
        _work(yes, [], ("yes",), until=4)
        _work(no, [], ("unsure",), until=4)
        told = judge.post("next").json()
        assert told["progress"]["left"] == 4
        everything = [list(range(len(told["sheet"]["claims"])))] * 2
        assert told["sheet"]["disputed"] == everything
        decided: list[str] = []
        _work(judge, decided)
        assert len(decided) == 4 and judge.post("next").json()["sheet"] is None
        assert no.post("undo").status_code == 409, "an adjudicated pair is closed"
    database = Database(run_dir / "review" / "review.sqlite")
    statuses = Store(database, 2, 60.0).statuses()
    assert {statuses[pair] for pair in decided} == {"rejected"}, "yes to everything means: the loser is not spoiled"


def test_a_pair_on_somebodys_screen_is_offered_in_their_place_to_nobody_until_the_lease_ends(tmp_path):
    database = Database(tmp_path / "x.sqlite")
    long, short = Store(database, 2, 600.0), Store(database, 2, -1.0)
    long.fill([Entry("a", gold=False), Entry("b", gold=False)])
    first = [long.lease(name, REVIEW, want_gold=False) for name in ("ann", "ben", "cat", "dan", "eve")]
    assert first == ["a", "a", "b", "b", None]
    assert short.lease("ann", REVIEW, want_gold=False) == "a"  # ann's lease, renewed, has now run out
    assert long.lease("eve", REVIEW, want_gold=False) == "a"


def test_settings_that_cannot_work_are_refused():
    for words, expected in (
        (["review.annotators=[ann]"], "per_pair must be at most the number of reviewers"),
        (["review.annotators=[ann,ann]"], "must all differ"),
        (["review.annotators=['a b',c]"], "names of letters"),
        (["publish.version=1"], "MAJOR.MINOR.PATCH"),
    ):
        with pytest.raises(SettingsError, match=expected):
            load("scenes", words)


def test_gold_pairs_may_come_from_another_folder(run_dir, tmp_path):
    write_pairs(tmp_path / "known", 10, first=1000)
    with serving(run_dir, f"review.gold_pairs={tmp_path / 'known'}", "review.gold_fraction=0.2") as server:
        saved: list[str] = []
        _work(server.client("annotator_1"), saved)
    gold = [pair for pair in saved if pair >= "pair-00001000"]
    assert len(saved) == 40 + len(gold) and len(gold) == 8
    assert max(len(list(run)) for is_gold, run in itertools.groupby(pair in gold for pair in saved) if is_gold) <= 2

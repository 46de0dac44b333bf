"""The review server as a process: no vote is lost or counted twice, and only invited annotators have access."""

from __future__ import annotations

import itertools
import os
import signal
import stat
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from conf import SettingsError, UserError, load
from pipelines.common.paths import RunPaths
from pipelines.preferences.claims import ClaimRule
from pipelines.preferences.review.database import Database
from pipelines.preferences.review.pairs import SIDES, PairSet
from pipelines.preferences.review.serve import open_database, open_queue, open_store
from pipelines.preferences.review.store import Store
from pipelines.preferences.review.votes import QueueEntry
from tests.support.review_server import ReviewClient, ReviewServer, answers_to, saved_votes, serving_review
from tests.support.scene_pairs import write_scene_pairs

RULE = ClaimRule("perturbed", objects=2, relations=1, changed=(2,), n_perturb=1)


def _review(client: ReviewClient, saved: list[str], pattern: tuple[str, ...] = ("yes",), until: int = 10**6) -> None:
    """Votes until no pair is left or the server is gone. Adds the pairs that the server acknowledged to `saved`."""
    try:
        reply = client.post("next").json()
        while reply["item"] and len(saved) < until:
            item = reply["item"]
            response = client.post("vote", vote_id=uuid.uuid4().hex, **answers_to(item, pattern))
            if response.status_code == 409:  # the annotator's other window was faster
                reply = client.post("next").json()
                continue
            assert response.ok, response.text
            saved.append(item["pair_id"])
            reply = response.json()
    except requests.ConnectionError:
        pass


@pytest.fixture(scope="module")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ReviewServer]:
    """One server for several tests. Each test uses other annotators."""
    run_dir = tmp_path_factory.mktemp("shared")
    write_scene_pairs(run_dir / "preferences", 40)
    overrides = ("review.annotators=[ann,ben,cat,dan,eve]", "review.annotators_per_pair=5", "review.gold_fraction=0")
    with serving_review(run_dir, *overrides) as server:
        yield server


def _winner_is_first(client: ReviewClient, run_dir: Path) -> dict[str, bool]:
    """Pair id -> whether the client saw its winner first, for all pairs."""
    pairs = PairSet(RunPaths(run_dir).preferences)
    winner_first: dict[str, bool] = {}
    reply = client.post("next").json()
    while item := reply["item"]:
        first, second = (client.image(path) for path in item["images"])
        sides = {side: pairs.image(item["pair_id"], side) for side in SIDES}
        assert {first, second} == set(sides.values())
        winner_first[item["pair_id"]] = first == sides["w"]
        reply = client.post("vote", vote_id=uuid.uuid4().hex, **answers_to(item)).json()
    return winner_first


def test_four_windows_at_once_lose_and_double_no_vote(run_dir: Path) -> None:
    names = ("ann", "ben", "cat", "ann")  # ann has two windows open
    overrides = ("review.annotators=[ann,ben,cat]", "review.adjudicators=[]", "review.gold_fraction=0")
    with serving_review(run_dir, *overrides) as server:
        clients = [server.client(name) for name in names]
        saved: list[list[str]] = [[] for _ in clients]
        threads = [threading.Thread(target=_review, args=pair) for pair in zip(clients, saved, strict=True)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    votes = saved_votes(run_dir)
    assert len(set(votes)) == len(votes) == 2 * 40, "each pair has exactly two votes, by different annotators"
    acknowledged = [(name, pair) for name, pairs in zip(names, saved, strict=True) for pair in pairs]
    assert sorted(acknowledged) == sorted(votes)


def test_a_killed_server_loses_no_acknowledged_vote(run_dir: Path) -> None:
    saved: dict[str, list[str]] = {"annotator_1": [], "annotator_2": []}
    with serving_review(run_dir) as server:
        clients = {name: server.client(name) for name in saved}
        _review(clients["annotator_1"], saved["annotator_1"], until=3)
        threads = [threading.Thread(target=_review, args=(clients[name], pairs)) for name, pairs in saved.items()]
        for thread in threads:
            thread.start()
        while len(saved["annotator_2"]) < 5:
            assert any(thread.is_alive() for thread in threads)
        os.kill(server.process.pid, signal.SIGKILL)
        for thread in threads:
            thread.join()
    acknowledged = {(name, pair) for name, pairs in saved.items() for pair in pairs}
    assert acknowledged <= set(saved_votes(run_dir))
    assert 8 <= len(saved_votes(run_dir)) < 80
    with serving_review(run_dir) as server:
        for name, pairs in saved.items():
            again = server.client(name)
            again.http.cookies.update(clients[name].http.cookies)
            session = again.http.get(f"{server.address}/api/me", timeout=30).json()
            assert session["annotator"] == name, "the login survives the server"
            _review(server.client(name), pairs)
    votes = saved_votes(run_dir)
    assert len(set(votes)) == len(votes) == 2 * 38 + 2 * 2, "38 pairs by two annotators, and two gold pairs by both"


def test_a_repeated_vote_counts_once_and_an_undone_vote_does_not_count(shared_server: ReviewServer) -> None:
    client, run_dir = shared_server.client("cat"), shared_server.run_dir
    item = client.post("next").json()["item"]
    vote = {"vote_id": uuid.uuid4().hex, **answers_to(item)}
    assert all(client.post("vote", **vote).ok for _ in range(2))
    assert len(saved_votes(run_dir, "cat")) == 1
    other = client.post("vote", **{**vote, "vote_id": uuid.uuid4().hex})
    assert other.status_code == 409
    assert len(saved_votes(run_dir, "cat")) == 1
    undone = client.post("undo").json()["item"]
    assert (undone["pair_id"], undone["answers"]) == (item["pair_id"], [vote["first"], vote["second"]])
    assert not saved_votes(run_dir, "cat")
    assert client.post("undo").status_code == 409
    assert client.post("next").json()["item"]["pair_id"] == item["pair_id"], "the undone pair is on the screen"


def test_requests_need_a_login_and_the_token_of_the_page(shared_server: ReviewServer) -> None:
    mode = stat.S_IMODE(RunPaths(shared_server.run_dir).review_invitations.stat().st_mode)
    assert mode == 0o600
    stranger = requests.Session()
    for method, path in (
        ("get", "/api/me"),
        ("post", "/api/next"),
        ("get", "/image?pair=pair-00000001&key=x"),
        ("get", "/overview"),
    ):
        assert stranger.request(method, shared_server.address + path, timeout=30).status_code == 401, path
    wrong = stranger.post(f"{shared_server.address}/api/login", json={"token": "x"}, timeout=30)
    assert wrong.status_code == 401
    client = shared_server.client("ann")
    cookie = next(iter(client.http.cookies))
    assert cookie.has_nonstandard_attr("HttpOnly")
    assert cookie.get_nonstandard_attr("SameSite") == "strict"
    for token in ("", "wrong", shared_server.client("ben").session["csrf"]):
        client.http.headers["X-CSRF-Token"] = token
        assert client.post("next").status_code == 403
    page = requests.get(shared_server.address, timeout=30)
    assert "default-src 'none'" in page.headers["Content-Security-Policy"]
    assert page.headers["X-Content-Type-Options"] == "nosniff"


def test_only_the_keys_of_an_annotators_own_items_give_images(shared_server: ReviewServer) -> None:
    ann, ben = shared_server.client("ann"), shared_server.client("ben")
    item = ann.post("next").json()["item"]
    assert all(ann.image(path).startswith(b"\x89PNG") for path in item["images"])
    assert not {"w", "changed", "winner", "kind", "gold"} & set(item), "an item must not tell the winner"
    for path in (
        item["images"][0],
        "/image/../../etc/passwd",
        "/page/../app.py",
        "/page/index.html",
        f"/image?pair={item['pair_id']}&key=w",
    ):
        assert ben.http.get(shared_server.address + path, timeout=30).status_code == 404, path
    for wrong in ({"pair_id": "pair-99999999"}, {"first": ["yes"]}, {"second": ["perhaps"] * len(item["claims"])}):
        refused = ann.post("vote", **{"vote_id": uuid.uuid4().hex, **answers_to(item), **wrong})
        assert refused.status_code == 422, refused.text
    assert not saved_votes(shared_server.run_dir, "ann", "ben")


def test_the_first_image_is_random_for_each_annotator(shared_server: ReviewServer) -> None:
    sides = {name: _winner_is_first(shared_server.client(name), shared_server.run_dir) for name in ("dan", "eve")}
    for winner_first in sides.values():
        assert 8 <= sum(winner_first.values()) <= 32, "the winner is first about half of the time"
    assert sides["dan"] != sides["eve"]


def test_an_adjudicator_gets_the_disputed_pairs_and_decides_them(run_dir: Path) -> None:
    with serving_review(run_dir, "review.gold_fraction=0") as server:
        adjudicator = server.client("adjudicator")
        assert adjudicator.post("next").json()["item"] is None
        first, second = server.client("annotator_1"), server.client("annotator_2")
        _review(first, [], ("yes",), until=4)
        _review(second, [], ("unsure",), until=4)
        reply = adjudicator.post("next").json()
        assert reply["progress"]["waiting"] == 4
        all_claims = [list(range(len(reply["item"]["claims"])))] * 2
        assert reply["item"]["asked"] == all_claims
        decided: list[str] = []
        _review(adjudicator, decided)
        assert len(decided) == 4
        assert adjudicator.post("next").json()["item"] is None
        assert second.post("undo").status_code == 409, "a vote on an adjudicated pair cannot be undone"
    database = Database(RunPaths(run_dir).review_database)
    decisions = Store(database, 2, 60.0).decisions()
    database.close()
    statuses = {decisions[pair].status for pair in decided}
    assert statuses == {"rejected"}, "yes to all claims: the loser is as good as the winner"


def test_a_leased_pair_is_offered_to_others_only_after_its_lease(tmp_path: Path) -> None:
    database = Database(tmp_path / "x.sqlite")
    long, expired = Store(database, 2, 600.0), Store(database, 2, -1.0)
    long.fill([QueueEntry("a", RULE), QueueEntry("b", RULE)])
    first = [long.lease(name, "review") for name in ("ann", "ben", "cat", "dan", "eve")]
    assert first == ["a", "a", "b", "b", None]
    assert expired.lease("ann", "review") == "a"  # renews ann's lease, which ends at once
    assert long.lease("eve", "review") == "a"


def test_invalid_settings_are_refused() -> None:
    for words, expected in (
        (["review.annotators=[ann]"], "per_pair must be at most the number of annotators"),
        (["review.annotators=[ann,ann]"], "must all differ"),
        (["review.annotators=['a b',c]"], "names of letters"),
        (["review.host=0.0.0.0"], "set review.address"),
        (["review.address=review.example.org"], "must read http://"),
        (["review.annotators=[ann,ben]", "review.void_votes=[ben]"], "ends the access of its annotators, got ben"),
        (["publish.version=1"], "MAJOR.MINOR.PATCH"),
    ):
        with pytest.raises(SettingsError, match=expected):
            load("scenes", words)


def test_gold_pairs_can_be_those_of_another_folder(run_dir: Path, tmp_path: Path) -> None:
    write_scene_pairs(tmp_path / "known", 10, first=1000)
    with serving_review(run_dir, f"review.gold_pairs={tmp_path / 'known'}", "review.gold_fraction=0.2") as server:
        saved: list[str] = []
        _review(server.client("annotator_1"), saved)
    gold = [pair for pair in saved if pair >= "pair-00001000"]
    assert len(saved) == 40 + len(gold)
    assert len(gold) == 8
    runs = (len(list(run)) for is_gold, run in itertools.groupby(pair in gold for pair in saved) if is_gold)
    assert max(runs) <= 2, "gold pairs are spread over the queue"


def test_gold_pairs_with_ids_of_the_dataset_are_a_user_error(run_dir: Path) -> None:
    settings = load("scenes", [f"run_dir={run_dir}", f"review.gold_pairs={run_dir / 'preferences'}"])
    database = open_database(settings)
    with pytest.raises(UserError, match="other ids than the dataset under review, got pair-00000000"):
        open_queue(settings, database, open_store(settings, database))
    database.close()

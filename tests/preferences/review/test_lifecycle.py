"""The start and the end of the review server as a process: what it says, its exit code, and what it leaves behind."""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import time
import uuid
from contextlib import closing
from pathlib import Path

import pytest

from pipelines.cli import main
from pipelines.common.paths import RunPaths
from pipelines.preferences.review.database import Database
from tests.support.review_server import answers_to, saved_votes, serving_review


def _refusal(run_dir: Path, capsys: pytest.CaptureFixture[str], *overrides: str) -> str:
    """Runs the command, which must end with exit code 2 and one line. Returns that line."""
    capsys.readouterr()
    assert main(["preferences", "review", f"run_dir={run_dir}", *overrides]) == 2
    (message,) = capsys.readouterr().err.splitlines()
    return message


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_server_with_its_code_and_a_closed_database(
    run_dir: Path, number: signal.Signals, code: int
) -> None:
    with serving_review(run_dir, "review.gold_fraction=0") as server:
        client = server.client("annotator_1")
        item = client.post("next").json()["item"]
        assert client.post("vote", vote_id=uuid.uuid4().hex, **answers_to(item)).ok
        server.process.send_signal(number)
        said, _ = server.process.communicate(timeout=60)
    assert server.process.returncode == code
    assert said.splitlines()[-1].startswith("review  stopped; 1 votes are in ") and not server.errors
    journal = RunPaths(run_dir).review_database.with_name("review.sqlite-journal")
    assert not journal.exists() or not journal.stat().st_size


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("review.port={port}", "review: cannot listen on 127.0.0.1:"),
        ("review.host=no-such-host.invalid", "or set review.port (or review.host) to another"),
        ("review.host=192.0.2.1", "or set review.port (or review.host) to another"),
        ("review.host=a..b", "or set review.port (or review.host) to another"),
        ("review.annotators_per_pair=3", "must be at most the number of annotators, got 3 with 2"),
        ("review.gold_pairs=nowhere", "no pairs in nowhere"),
    ],
)
def test_a_wrong_setting_is_one_message_before_anything_else(
    run_dir: Path, capsys: pytest.CaptureFixture[str], override: str, expected: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        message = _refusal(run_dir, capsys, "review.port=0", override.format(port=taken.getsockname()[1]))
    assert expected in message
    assert not RunPaths(run_dir).review_invitations.exists()


DAMAGED = {
    "review/review.sqlite": "restore a copy",
    "review/invitations.txt": "delete the line",
    "review/triage.json": "run it again, or delete it",
    "preferences/train-00000.parquet": "must be a parquet file of pairs",
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_file_of_the_review_is_one_message(
    run_dir: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    path = run_dir / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"damaged")
    message = _refusal(run_dir, capsys, "review.port=0")
    assert str(path) in message and DAMAGED[name] in message
    assert path.read_bytes() == b"damaged"


def test_the_terminal_says_who_has_access_and_who_has_lost_it(run_dir: Path) -> None:
    with serving_review(run_dir, "review.annotators=[ann,ben]", "review.adjudicators=[cleo]") as server:
        token = server.links["ann"].partition("#")[2]
    with serving_review(run_dir) as server:
        assert "annotators: ann, ben; adjudicators: cleo" in server.said and "no longer" not in server.said
        assert server.links["ann"].partition("#")[2] == token
    with serving_review(run_dir, "review.annotators=[ann,dan]") as server:
        assert "no longer invited: ben." in server.said
        assert set(server.links) == {"ann", "dan", "cleo"}


def test_a_vote_that_does_not_fit_on_the_disk_is_refused_and_saved_when_there_is_room(run_dir: Path) -> None:
    with serving_review(run_dir, "review.gold_fraction=0") as server:
        client = server.client("annotator_1")
        item = client.post("next").json()["item"]
        vote = {"vote_id": uuid.uuid4().hex, **answers_to(item)}
        _, hard = resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (100, hard))  # no file can grow any more
        for _ in range(2):
            refused = client.post("vote", **vote)
            assert refused.status_code == 503 and refused.headers["Retry-After"]
            assert "cannot save at the moment" in refused.json()["detail"]
        assert not saved_votes(run_dir)
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (hard, hard))
        assert client.post("vote", **vote).ok
        assert saved_votes(run_dir) == [("annotator_1", item["pair_id"])]


@pytest.mark.slow
def test_twelve_kills_lose_no_acknowledged_vote_and_double_none(run_dir: Path) -> None:
    acknowledged: list[tuple[str, str]] = []
    for kill in range(12):
        with serving_review(run_dir, "review.gold_fraction=0", "review.annotators=[ann,ben]") as server:
            clients = {name: server.client(name) for name in ("ann", "ben")}
            end = time.monotonic() + 0.2 + 0.1 * kill
            while time.monotonic() < end:
                for name, client in clients.items():
                    if item := client.post("next").json()["item"]:
                        assert client.post("vote", vote_id=uuid.uuid4().hex, **answers_to(item)).ok
                        acknowledged.append((name, item["pair_id"]))
            os.kill(server.process.pid, signal.SIGKILL)
    votes = saved_votes(run_dir)
    assert len(set(votes)) == len(votes) and set(acknowledged) <= set(votes)
    with closing(Database(RunPaths(run_dir).review_database)) as database:
        stored = database.all("SELECT winner FROM votes")
    assert all(json.loads(row["winner"]) for row in stored)

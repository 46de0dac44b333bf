"""`spatialt2i preferences review` as a process, and clients that send what the page sends."""

from __future__ import annotations

import os
import re
import sqlite3
import subprocess
import sys
from collections.abc import Generator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests

from pipelines.common.paths import RunPaths
from tests.support.browser import wait_for

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class ReviewServer:
    """A running review."""

    process: subprocess.Popen[str]
    address: str
    run_dir: Path
    said: str  # what it printed before it served

    @property
    def errors(self) -> str:
        """What it has printed to stderr."""
        return (self.run_dir / "review_errors.txt").read_text()

    @property
    def memory(self) -> int:
        """Bytes of its resident memory."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return 1024 * int(re.findall(r"VmRSS:\s+(\d+) kB", status)[0])

    @property
    def links(self) -> dict[str, str]:
        """Annotator -> login link."""
        lines = RunPaths(self.run_dir).review_invitations.read_text().splitlines()
        return dict(line.split() for line in lines)

    def client(self, annotator: str) -> ReviewClient:
        """A client that is logged in."""
        return ReviewClient(self.address, self.links[annotator].partition("#")[2])


class ReviewClient:
    """Sends the requests of the page."""

    def __init__(self, address: str, token: str) -> None:
        self.address, self.http = address, requests.Session()
        response = self.http.post(f"{address}/api/login", json={"token": token}, timeout=30)
        response.raise_for_status()
        self.session: dict[str, str] = response.json()
        self.http.headers["X-CSRF-Token"] = self.session["csrf"]

    def post(self, name: str, **body: Any) -> requests.Response:
        """POST /api/<name>."""
        return self.http.post(f"{self.address}/api/{name}", json=body, timeout=30)

    def image(self, path: str) -> bytes:
        """The bytes of an image."""
        response = self.http.get(self.address + path, timeout=30)
        response.raise_for_status()
        return response.content


@contextmanager
def serving_review(run_dir: Path, *overrides: str) -> Generator[ReviewServer]:
    """Runs the review server of a run on a free port. Terminates it at the end."""
    arguments = ["preferences", "review", f"run_dir={run_dir}", "review.port=0", *overrides]
    errors = run_dir / "review_errors.txt"  # a file, because a pipe that nobody reads would stop the server
    with errors.open("w") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-c", "import sys; from pipelines.cli import main; sys.exit(main())", *arguments],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        )
    try:
        assert process.stdout
        said: list[str] = []
        address = None
        while not address:
            said.append(process.stdout.readline())
            assert said[-1], f"the server ended after {said}: {errors.read_text()}"
            address = re.search(r"http://[\d.]+:\d+", said[-1])
        wait_for(lambda: _responds(address[0]), "the server")
        yield ReviewServer(process, address[0], run_dir, "".join(said))
    finally:
        process.terminate()
        process.wait(30)


def answers_to(item: dict[str, Any], pattern: Sequence[str] = ("yes",)) -> dict[str, object]:
    """Answers about both images of an item: `pattern`, repeated."""
    answers = [pattern[i % len(pattern)] for i in range(len(item["claims"]))]
    return {"pair_id": item["pair_id"], "first": answers, "second": answers, "seconds": 3.0}


def saved_votes(run_dir: Path, *annotators: str) -> list[tuple[str, str]]:
    """(annotator, pair id) of all votes that are not withdrawn, read from the file. `annotators`: only their votes."""
    with closing(sqlite3.connect(RunPaths(run_dir).review_database)) as database:
        votes = database.execute("SELECT annotator, pair_id FROM votes WHERE NOT withdrawn").fetchall()
    return [vote for vote in votes if not annotators or vote[0] in annotators]


def _responds(address: str) -> bool:
    try:
        return requests.get(address, timeout=5).ok
    except requests.ConnectionError:
        return False

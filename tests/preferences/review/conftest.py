"""A small set under review, and the server as a process of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import requests

from pipelines.preferences.dataset.schema import to_table
from pipelines.preferences.roles.base import RowSpec
from pipelines.preferences.roles.scenes import SceneGenerator, ScenePerturber, SceneReviewer, SceneWriter
from tests.support.browser import wait_for

ROOT = Path(__file__).parents[3]


def write_pairs(folder: Path, count: int, kind: str = "perturbed", first: int = 0) -> None:
    """Pairs of the scenes world as one parquet file."""
    tasks = [RowSpec(i, kind, i) for i in range(first, first + count)]
    pairs = SceneGenerator().generate(ScenePerturber().perturb(SceneWriter().write(tasks)))
    splits = ["test" if i % 5 == 0 else "train" for i in range(count)]
    table = to_table(pairs, SceneReviewer().review(pairs), splits, "test")
    folder.mkdir(parents=True, exist_ok=True)
    for split in ("train", "test"):
        rows = table.filter([one == split for one in splits])
        pq.write_table(rows, folder / f"{split}-{first:05d}.parquet", row_group_size=4)


@dataclass(frozen=True)
class Server:
    """A running review."""

    process: subprocess.Popen[str]
    address: str
    run_dir: Path

    @property
    def links(self) -> dict[str, str]:
        """Reviewer -> login link."""
        lines = (self.run_dir / "review" / "invitations.txt").read_text().splitlines()
        return dict(line.split() for line in lines)

    def client(self, reviewer: str) -> Client:
        """A reviewer who is logged in."""
        return Client(self.address, self.links[reviewer].partition("#")[2])


class Client:
    """What the page does, without the page."""

    def __init__(self, address: str, token: str) -> None:
        self.address, self.http = address, requests.Session()
        told = self.http.post(f"{address}/api/login", json={"token": token}, timeout=30)
        told.raise_for_status()
        self.me = told.json()
        self.http.headers["X-CSRF-Token"] = self.me["csrf"]

    def post(self, name: str, **body: object) -> requests.Response:
        """POST /api/<name>."""
        return self.http.post(f"{self.address}/api/{name}", json=body, timeout=30)

    def picture(self, path: str) -> bytes:
        """A picture's bytes."""
        got = self.http.get(self.address + path, timeout=30)
        got.raise_for_status()
        return got.content


@contextmanager
def serving(run_dir: Path, *overrides: str) -> Iterator[Server]:
    """`spatialt2i preferences review` as a process, ended at the end."""
    words = ["preferences", "review", f"run_dir={run_dir}", "review.port=0", *overrides]
    process = subprocess.Popen(
        [sys.executable, "-c", "import sys; from pipelines.cli import main; sys.exit(main())", *words],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stdout
        line = process.stdout.readline()
        found = re.search(r"http://[\d.]+:\d+", line)
        assert found, f"the server said {line!r}"
        wait_for(lambda: _answers(found[0]), "the server")
        yield Server(process, found[0], run_dir)
    finally:
        process.terminate()
        process.wait(30)


def answer(sheet: dict, pattern: Sequence[str] = ("yes",)) -> dict[str, object]:
    """Answers to both pictures of a sheet, `pattern` over and over."""
    claims = len(sheet["claims"])
    given = [pattern[i % len(pattern)] for i in range(claims)]
    return {"pair_id": sheet["pair_id"], "first": given, "second": given, "seconds": 3.0}


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """A run with forty pairs."""
    write_pairs(tmp_path / "preferences", 40)
    return tmp_path


def _answers(address: str) -> bool:
    try:
        return requests.get(address, timeout=5).ok
    except requests.ConnectionError:
        return False

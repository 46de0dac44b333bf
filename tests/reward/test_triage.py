"""Triage puts the pairs that a model flags first. It decides nothing, and annotators do not see its scores."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from actors.images import decode_image
from conf import Settings, load
from pipelines.preferences.review.auth import Session
from pipelines.preferences.review.overview import render_overview
from pipelines.preferences.review.pairs import PairSet
from pipelines.preferences.review.serve import open_database, open_queue, open_store
from pipelines.reward.triage import triage
from tests.support.openai_server import Behaviour, ContentRefusal, serving
from tests.support.scene_pairs import write_scene_pairs
from tests.support.tiny_reward import save_tiny_vlm, tiny_spatialscore


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """A run with forty pairs."""
    write_scene_pairs(tmp_path / "preferences", 40)
    return tmp_path


def _settings(run_dir: Path, *overrides: str) -> Settings:
    return load("scenes", [f"run_dir={run_dir}", "review.gold_fraction=0", *overrides])


def _queue(settings: Settings) -> list[str]:
    """The pairs in the order in which an annotator gets them."""
    database = open_database(settings)
    open_queue(settings, database, open_store(settings, database))
    rows = database.all("SELECT pair_id FROM pairs WHERE listed ORDER BY position")
    database.close()
    return [row["pair_id"] for row in rows]


def test_a_judge_behind_an_endpoint_orders_the_queue_and_casts_no_vote(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JUDGE_KEY", "sk-secret")
    pairs = PairSet(run_dir / "preferences")
    pair_of_winner = {decode_image(pairs.image(name, "w")).tobytes(): name for name in pairs.ids}
    flagged, refused = pairs.ids[7], pairs.ids[11]

    def choose(body: dict[str, Any], untrue: bool) -> str:
        """Chooses the winner, except for one pair, and refuses another."""
        urls = [part["image_url"]["url"] for part in body["messages"][0]["content"][:2]]
        images = [decode_image(base64.b64decode(url.partition(",")[2])).tobytes() for url in urls]
        winner_is_first = images[0] in pair_of_winner
        name = pair_of_winner[images[0 if winner_is_first else 1]]
        if name == refused:
            raise ContentRefusal
        return "1" if winner_is_first == (name != flagged) else "2"

    overrides = ("review.triage=judge", "judge.key_variable=JUDGE_KEY")
    shuffled, behaviour = _queue(_settings(run_dir, *overrides)), Behaviour(reply=choose)
    with serving(behaviour) as url:
        settings = _settings(run_dir, *overrides, f"judge.url={url}")
        scores = triage(settings)
        assert triage(settings) == scores
        assert sum(behaviour.seen.values()) == 80, "both orders of 40 pairs, each asked once"
    assert (scores.margins[flagged], scores.margins[refused]) == (-1.0, None)
    rest = [name for name in shuffled if name not in (flagged, refused)]
    assert _queue(settings) == [refused, flagged, *rest], "the other pairs stay in shuffled order"

    database = open_database(settings)
    store = open_store(settings, database)
    queue = open_queue(settings, database, store)
    assert not store.votes()
    assert {one.status for one in store.decisions().values()} == {"pending"}
    review = render_overview(queue.overview(Session("x", "review", "")))
    adjudication = render_overview(queue.overview(Session("x", "adjudication", "")))
    database.close()
    assert "gpt-5 flagged some pairs" in adjudication
    assert "not flagged</th><td>38</td>" in adjudication
    assert "flagged" not in review


def test_a_pair_that_cannot_be_read_gets_no_score_and_is_shown_first(run_dir: Path) -> None:
    save_tiny_vlm(run_dir / "vlm")
    tiny_spatialscore(run_dir / "vlm").save_pretrained(run_dir / "score")
    settings = _settings(run_dir, f"serving.model={run_dir / 'score'}")
    file = next((run_dir / "preferences").glob("*.parquet"))
    table = pq.read_table(file)
    rows = table.to_pylist()
    rows[3]["image_w"]["bytes"], rows[5]["image_l"]["bytes"] = b"GIF89a", None
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), file)
    lines: list[str] = []
    scores = triage(settings, lines.append)
    bad = {rows[3]["pair_id"], rows[5]["pair_id"]}
    assert {name for name, margin in scores.margins.items() if margin is None} == bad
    assert lines[-1].startswith("triage  2 of 40 pairs cannot be read")
    assert set(_queue(settings)[:2]) == bad


def test_spatialscore_orders_the_queue(run_dir: Path) -> None:
    save_tiny_vlm(run_dir / "vlm")
    tiny_spatialscore(run_dir / "vlm").save_pretrained(run_dir / "score")
    settings = _settings(run_dir, f"serving.model={run_dir / 'score'}")
    lines: list[str] = []
    scores = triage(settings, lines.append)
    assert lines[-1].startswith("triage  40/40 pairs")
    lowest_first = sorted(filter(scores.is_flagged, scores.margins), key=scores.margins.__getitem__)
    assert 0 < len(lowest_first) < 40
    assert _queue(settings)[: len(lowest_first)] == lowest_first

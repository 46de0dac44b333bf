"""A model puts the pairs that it doubts first. It decides nothing, and reviewers are not told."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest

from conf import Settings, load
from pipelines.common.images import decode
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


def settings_of(run_dir: Path, *more: str) -> Settings:
    return load("scenes", [f"run_dir={run_dir}", "review.gold_fraction=0", *more])


def queue_of(settings: Settings) -> list[str]:
    """The pairs as one reviewer gets them."""
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
    winners = {decode(pairs.image(name, "w")).tobytes(): name for name in pairs.ids}
    doubted, refused = pairs.ids[7], pairs.ids[11]

    def prefer(body: dict[str, Any], untrue: bool) -> str:
        """The winner, but for one pair the loser; refuses to answer for another."""
        urls = [part["image_url"]["url"] for part in body["messages"][0]["content"][:2]]
        shown = [decode(base64.b64decode(url.partition(",")[2])).tobytes() for url in urls]
        first = shown[0] in winners
        name = winners[shown[0 if first else 1]]
        if name == refused:
            raise ContentRefusal
        return "1" if first == (name != doubted) else "2"

    settings = settings_of(run_dir, "review.triage=judge", "judge.key_variable=JUDGE_KEY")
    shuffled, behaviour = queue_of(settings), Behaviour(reply=prefer)
    with serving(behaviour) as url:
        settings = settings_of(run_dir, "review.triage=judge", "judge.key_variable=JUDGE_KEY", f"judge.url={url}")
        doubts = triage(settings)
        assert triage(settings) == doubts and sum(behaviour.seen.values()) == 80, "both orders of 40 pairs, once"
    assert doubts.margins[doubted] == -1.0 and doubts.margins[refused] is None
    rest = [name for name in shuffled if name not in (doubted, refused)]
    assert queue_of(settings) == [refused, doubted, *rest], "the others stay as they were shuffled"

    database = open_database(settings)
    store = open_store(settings, database)
    desk = open_queue(settings, database, store)
    assert not store.votes() and set(store.statuses().values()) == {"pending"}
    review, adjudication = (
        render_overview(desk.overview(Session("x", "review", ""))),
        render_overview(desk.overview(Session("x", "adjudication", ""))),
    )
    database.close()
    assert "gpt-5 flagged some pairs" in adjudication and "flagged" not in review
    assert "not flagged</th><td>38</td>" in adjudication


def test_spatialscore_orders_it_too(run_dir: Path) -> None:
    save_tiny_vlm(run_dir / "vlm")
    tiny_spatialscore(run_dir / "vlm").save_pretrained(run_dir / "score")
    settings = settings_of(run_dir, f"serving.model={run_dir / 'score'}")
    lines: list[str] = []
    doubts = triage(settings, lines.append)
    assert lines[-1].startswith("triage  40/40 pairs")
    worst_first = sorted(filter(doubts.is_flagged, doubts.margins), key=doubts.margins.__getitem__)
    assert 0 < len(worst_first) < 40 and queue_of(settings)[: len(worst_first)] == worst_first

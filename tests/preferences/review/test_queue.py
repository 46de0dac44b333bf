"""The queue without a server: the qualification round, gold pairs of a set of photographs, and the cached overview."""

from __future__ import annotations

import io
from collections.abc import Generator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from actors.images import decode_image
from conf import load
from pipelines.common.images import encode_png
from pipelines.preferences.claims import Answer
from pipelines.preferences.review import queue as queue_module
from pipelines.preferences.review.annotation import Annotation, truth
from pipelines.preferences.review.auth import Session
from pipelines.preferences.review.pairs import PairSet
from pipelines.preferences.review.queue import GivenAnswers, ReviewQueue
from pipelines.preferences.review.screen_images import MAX_SIDE, ScreenImages
from pipelines.preferences.review.serve import open_database, open_queue, open_store
from pipelines.preferences.review.store import Store
from tests.support.scene_pairs import write_long_pairs

ANN, BEN, DAN = (Session(name, "review", "") for name in ("ann", "ben", "dan"))
CLEO = Session("cleo", "adjudication", "")


@contextmanager
def _opened(run_dir: Path, *words: str) -> Generator[tuple[ReviewQueue, Store]]:
    settings = load("scenes", [f"run_dir={run_dir}", *words])
    with closing(open_database(settings)) as database:
        store = open_store(settings, database)
        yield open_queue(settings, database, store), store


def _vote(queue: ReviewQueue, session: Session, annotation: Annotation | None = None) -> str:
    """Votes on the next pair, with the true answers by default. Returns its id."""
    item = queue.next_item(session)
    assert item
    given = annotation or truth(item.pair)
    assert given
    sides = (given.winner, given.loser)
    first, second = sides if _first_is_winner(queue, session, item.pair.pair_id) else reversed(sides)
    queue.cast(session, f"{session.annotator}-{item.pair.pair_id}", item.pair.pair_id, GivenAnswers(first, second), 1.0)
    return item.pair.pair_id


def _first_is_winner(queue: ReviewQueue, session: Session, pair_id: str) -> bool:
    return queue._first_side(session.annotator, pair_id) == "w"  # pyright: ignore[reportPrivateUsage]


def test_only_who_answers_the_gold_pairs_of_the_qualification_correctly_gets_other_pairs(run_dir: Path) -> None:
    with _opened(run_dir, "review.qualification=3", "review.gold_fraction=0") as (queue, _):
        gold = {_vote(queue, ANN) for _ in range(3)}
        assert len(gold) == 3 and not queue.qualification(ANN).failed
        item = queue.next_item(ANN)
        assert item and item.pair.pair_id not in gold
        for _ in range(3):
            item = queue.next_item(BEN)
            assert item and item.pair.pair_id in gold and queue.qualification(BEN).running
            no: tuple[Answer, ...] = ("no",) * item.pair.rule.claims
            queue.cast(BEN, f"ben-{item.pair.pair_id}", item.pair.pair_id, GivenAnswers(no, no), 1.0)
        assert queue.qualification(BEN).failed and queue.next_item(BEN) is None


def test_pairs_that_an_adjudicator_accepted_become_gold_pairs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_long_pairs(tmp_path / "preferences", 3)
    with _opened(tmp_path) as (queue, store):
        claims = 14 + 12
        right = Annotation(("yes",) * claims, tuple("no" if claim == 14 else "yes" for claim in range(claims)))
        wrong = Annotation(("no", *right.winner[1:]), right.loser)
        pair_id = _vote(queue, ANN, right)
        assert _vote(queue, BEN, wrong) == pair_id
        item = queue.next_item(CLEO)
        assert item and sorted(map(len, item.asked)) == [0, 1], "one claim is disputed"
        only: Annotation = Annotation(("yes",) + ("",) * (claims - 1), ("",) * claims)
        assert _vote(queue, CLEO, only) == pair_id
        assert store.decisions()[pair_id].tier == "strict"
        assert queue.overview(CLEO).votes == 3
        _vote(queue, ANN, right)
        assert queue.overview(CLEO).votes == 3, "the overview is kept for a minute"
        monkeypatch.setattr(queue_module, "OVERVIEW_SECONDS", -1.0)
        overview = queue.overview(CLEO)
        assert overview.votes == 4 and overview.annotator_pairs[0].claims == 2 * claims
        assert [row.name for row in queue.overview(ANN).annotators] == ["ann"]
    with _opened(tmp_path, "review.qualification=1") as (queue, store):
        assert _vote(queue, DAN, wrong) == pair_id, "the only gold pair"
        assert queue.qualification(DAN).right == pytest.approx(51 / 52)
        assert store.decisions()[pair_id].tier == "strict", "a vote on a gold pair decides nothing"


def _set_checks(folder: Path, doubts: Mapping[str, Mapping[str, Answer]]) -> None:
    """Adds the answers of a check: what the tier strict needs, except for `doubts`, of claim 1 by pair and side."""
    for path in folder.glob("*.parquet"):
        table = pq.read_table(path)
        rows = table.to_pylist()
        for row in rows:
            given = truth(PairSet(folder).pair(row["pair_id"]))
            assert given
            answers = {"winner": list(given.winner), "loser": list(given.loser)}
            for side, answer in doubts.get(row["pair_id"], {}).items():
                answers[side][1] = answer
            row["image_check"] = {**answers, "tries": [1, 1], "audit": False}
        pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), path)


def test_pairs_and_claims_that_the_check_doubts_come_first_and_gold_pairs_stay_mixed_in(run_dir: Path) -> None:
    doubts: dict[str, dict[str, Answer]] = {
        "pair-00000011": {"winner": "unsure"},
        "pair-00000030": {"winner": "no", "loser": "unsure"},
    }
    _set_checks(run_dir / "preferences", doubts)
    with _opened(run_dir, "review.gold_fraction=0.25") as (queue, store):
        gold = {name for name in PairSet(run_dir / "preferences").ids if name not in store.waiting()}
        assert len(gold) == 10 and not gold & doubts.keys()
        assert store.waiting()[:2] == ["pair-00000030", "pair-00000011"], "most doubts first"
        rest = store.waiting()[2:]
        assert rest != sorted(rest), "the others are in random order"
        shown = [_vote(queue, ANN) for _ in range(12)]
        assert [name for name in shown if name not in gold][:2] == ["pair-00000030", "pair-00000011"]
        assert len(gold & set(shown)) == 3, "one pair in four measures the annotator"
    with _opened(run_dir, "review.gold_fraction=0") as (queue, _):
        item = queue.next_item(DAN)
        assert item and item.pair.pair_id == "pair-00000030" and item.pair.rule.objects == 2
        assert item.asked == ((1, 0, 2), (1, 0, 2)), "the doubtful object first, in the same order for both images"


def test_large_images_are_sent_at_the_size_of_a_screen() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (1200, 1500, 3), dtype=np.uint8)
    master, images = encode_png(pixels), ScreenImages()
    sent = images.get(master)
    assert Image.open(io.BytesIO(sent)).format == "WEBP" and decode_image(sent).shape[1] == MAX_SIDE
    assert images.get(master) is sent, "it is converted once"
    small = encode_png(pixels[:64, :64])
    assert images.get(small) == small and images.get(b"no image") == b"no image"

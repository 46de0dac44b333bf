"""`spatialt2i preferences triage`: a model says which pairs it doubts, so that people see those first.

It decides nothing: no vote is written, no pair is left out, and reviewers are not told what it said.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from actors.services.budget import BudgetTracker, LocalBudget
from actors.services.endpoint import key_of
from conf.settings import Settings
from pipelines.common.images import decode
from pipelines.preferences.review.pairs import PairSet, pairs_folder
from pipelines.preferences.review.serve import review_folder
from pipelines.preferences.review.triage_scores import TriageScores
from pipelines.reward.baselines.vlm import VlmJudge
from pipelines.reward.data import Pair
from pipelines.reward.evaluate import margins, open_scorer
from pipelines.reward.served_model import served_model

CHUNK = 64  # pairs whose pictures are in memory at a time

Judge = Callable[[Sequence[Pair]], Sequence[float]]
"""Pairs -> by how much it prefers each winner; NaN where it has no answer."""


def triage(settings: Settings, log: Callable[[str], None] = print) -> TriageScores:
    """Asks the model of `review.triage` about all pairs that may be reviewed, and keeps what it said.

    Raises FileNotFoundError without pairs or a SpatialScore, ValueError where the judge's key is not set, BudgetReached
    if calls cost too much: the next start reads the answers that were paid for.
    """
    pairs, judge = PairSet(pairs_folder(settings)), _judge(settings)
    waiting = [pair.pair_id for pair in pairs.pairs() if pair.status != "rejected"]
    found: dict[str, float | None] = {}
    started = time.perf_counter()
    for start in range(0, len(waiting), CHUNK):
        chunk = [_pair(pairs, pair_id) for pair_id in waiting[start : start + CHUNK]]
        told = [float(margin) for margin in judge(chunk)]
        found |= {pair.pair_id: None if margin != margin else margin for pair, margin in zip(chunk, told, strict=True)}
        rate = len(found) / (time.perf_counter() - started)
        left = (len(waiting) - len(found)) / rate
        log(f"triage  {len(found)}/{len(waiting)} pairs  {rate:.1f} pairs/s  {left:.0f} s left")
    doubts = TriageScores("SpatialScore" if settings.review.triage == "spatialscore" else settings.judge.model, found)
    doubts.write(review_folder(settings))
    return doubts


def _judge(settings: Settings) -> Judge:
    if settings.review.triage == "spatialscore":
        scorer = open_scorer(served_model(settings), settings.serving)
        return lambda pairs: margins(
            scorer, [p.image_w for p in pairs], [p.image_l for p in pairs], [p.prompt for p in pairs]
        ).tolist()
    account = LocalBudget(BudgetTracker(settings.budget, f"{settings.run_dir}/account.jsonl"))
    cache = settings.budget.cache or f"{settings.run_dir}/answers"
    judge = VlmJudge(settings.judge, key_of(settings.judge), "pairwise", cache, account)
    return lambda pairs: judge.judge(pairs).margin.tolist()


def _pair(pairs: PairSet, pair_id: str) -> Pair:
    told = pairs.pair(pair_id)
    winner, loser = (decode(pairs.image(pair_id, side)) for side in ("w", "l"))
    return Pair(pair_id, told.prompt, None, winner, loser, told.kind, told.n_perturb)

"""`spatialt2i preferences triage`: a model flags the pairs that it finds doubtful, so that annotators see them first.

It decides nothing: it casts no vote, leaves no pair out, and annotators do not see its scores.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence

from actors.images import decode_image
from actors.reward_input import check_prompt
from actors.services.budget import BudgetTracker, LocalBudget
from actors.services.keys import key_of
from conf.settings import Settings
from pipelines.common.paths import run_paths
from pipelines.preferences.review.pairs import PairSet
from pipelines.preferences.review.triage_scores import TriageScores
from pipelines.reward.baselines.vlm import VlmJudge
from pipelines.reward.data import Pair
from pipelines.reward.pair_scores import score_pairs
from pipelines.reward.served_model import open_scorer, served_model
from pipelines.reward.unreadable import UnreadableRow, describe

CHUNK = 64  # pairs whose images are in memory at a time

Margins = Callable[[Sequence[Pair]], Sequence[float]]
"""Returns the margin by which a model prefers each winner; NaN if it has no answer."""


def triage(settings: Settings, log: Callable[[str], None] = print) -> TriageScores:
    """Scores all pairs that can be reviewed with the model of `review.triage`, and writes the scores for the review.

    A pair that cannot be read gets no score, as one that the judge refuses. Raises UserError if there are no pairs or
    no SpatialScore, SettingsError if the judge's key is not set, and BudgetReached if calls cost too much: the next
    start reads the paid answers from the cache.
    """
    paths = run_paths(settings)
    pairs, margins_of = PairSet(paths.preferences), _open_model(settings)
    pair_ids = [pair.pair_id for pair in pairs.pairs() if pair.status != "rejected"]
    margins: dict[str, float | None] = {}
    unreadable: list[UnreadableRow] = []
    started = time.perf_counter()
    for start in range(0, len(pair_ids), CHUNK):
        ids = pair_ids[start : start + CHUNK]
        margins |= dict.fromkeys(ids)
        chunk = list(_decode_pairs(pairs, ids, unreadable))
        for pair, margin in zip(chunk, margins_of(chunk) if chunk else (), strict=True):
            margins[pair.pair_id] = None if math.isnan(margin) else float(margin)
        rate = len(margins) / (time.perf_counter() - started)
        seconds_left = (len(pair_ids) - len(margins)) / rate
        log(f"triage  {len(margins)}/{len(pair_ids)} pairs  {rate:.1f} pairs/s  {seconds_left:.0f} s left")
    if unreadable:
        log(f"triage  {describe(unreadable, len(pair_ids))}: annotators see them first")
    model = "SpatialScore" if settings.review.triage == "spatialscore" else settings.judge.model
    scores = TriageScores(model, margins)
    scores.write(paths.triage_scores)
    return scores


def _open_model(settings: Settings) -> Margins:
    if settings.review.triage == "spatialscore":
        scorer = open_scorer(served_model(settings), settings.serving)
        return lambda pairs: score_pairs(scorer, pairs).margin.tolist()
    paths = run_paths(settings)
    budget = LocalBudget(BudgetTracker(settings.budget, str(paths.account)))
    cache = settings.budget.cache or str(paths.answers)
    judge = VlmJudge(settings.judge, key_of(settings.judge), "pairwise", cache, budget)
    return lambda pairs: judge.judge(pairs).margin.tolist()


def _decode_pairs(pairs: PairSet, pair_ids: Sequence[str], unreadable: list[UnreadableRow]) -> Iterator[Pair]:
    """The pairs that can be read. The others are added to `unreadable`."""
    for pair_id in pair_ids:
        try:
            yield _decode_pair(pairs, pair_id)
        except (ValueError, KeyError) as error:
            unreadable.append(UnreadableRow(pair_id, str(error.args[0])))


def _decode_pair(pairs: PairSet, pair_id: str) -> Pair:
    """Raises ValueError for a prompt or an image that no reward accepts, KeyError for an image that is missing."""
    pair = pairs.pair(pair_id)
    check_prompt(pair.prompt)
    return Pair(
        pair_id=pair_id,
        prompt=pair.prompt,
        perturbed_prompt=None,
        image_w=decode_image(pairs.image(pair_id, "w")),
        image_l=decode_image(pairs.image(pair_id, "l")),
        kind=pair.rule.kind,
        n_perturb=pair.rule.n_perturb,
    )

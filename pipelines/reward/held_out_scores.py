"""SpatialScore's scores of all held-out pairs, on several GPUs, with the images of a few pairs in memory at a time."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice

import numpy as np
import ray

from actors.images import decode_image
from actors.spatialscore import SpatialScorer
from actors.types import Scores
from actors.worker_setup import actor_options
from conf.serving import ServingSettings
from conf.settings import Settings
from pipelines.reward.data import Pair, read_place
from pipelines.reward.locations import HELD_OUT, PairSource, pair_source
from pipelines.reward.pair_scores import PairScores, score_pairs, score_under_perturbed_prompts
from pipelines.reward.predictions import PairKey
from pipelines.reward.prefetch import prefetched
from pipelines.reward.row_groups import RowPlace, find_rows
from pipelines.reward.served_model import open_scorer, served_model
from pipelines.reward.unreadable import UnreadableRow, describe, refusal, too_many


@dataclass(frozen=True)
class PairScore:
    """The scores of one pair."""

    pair: Pair  # without images
    winner: tuple[float, float]  # mu and sigma of image_w
    loser: tuple[float, float]
    perturbed_margin: float | None  # of image_l over image_w under the perturbed prompt; None without such a prompt


@dataclass(frozen=True)
class HeldOutScores:
    """The scores of all held-out pairs that can be read, folder by folder and by id."""

    keys: tuple[PairKey, ...]
    scores: list[PairScore]
    left_out: str  # pairs that cannot be read, in one line

    @property
    def pairs(self) -> list[Pair]:
        """The pairs, without images."""
        return [score.pair for score in self.scores]


@dataclass(frozen=True)
class ScoringTasks:
    """The tasks that share the held-out pairs."""

    count: int
    gpus: float  # of each


def scoring_tasks(settings: Settings, row_groups: int) -> ScoringTasks:
    """One task for each GPU of a GPU fit. Each takes a whole one, because Ray puts several fractions on one GPU."""
    reward, serving = settings.reward, settings.serving
    count = min(row_groups, reward.workers) if reward.use_gpu and serving.gpus else 1
    return ScoringTasks(count, max(1.0, serving.gpus) if count > 1 else serving.gpus)


def score_held_out(settings: Settings) -> HeldOutScores:
    """Scores the held-out pairs in Ray tasks with the resources of a replica; a GPU fit's GPUs are all used.

    Ray must be initialized. Raises UserError if there is no SpatialScore, or if too many pairs cannot be read.
    """
    source, serving = pair_source(settings), settings.serving
    places = find_rows(source, HELD_OUT)
    tasks = scoring_tasks(settings, len(places))
    score = ray.remote(_score_places).options(**actor_options(serving.threads, serving.cpus, tasks.gpus))
    model = served_model(settings)
    shares = [places[number :: tasks.count] for number in range(tasks.count)]
    rows = list(chain(*ray.get([score.remote(model, share, serving) for share in shares])))
    return _sorted(rows, source)


def score_each(scorer: SpatialScorer, pairs: Sequence[Pair]) -> list[PairScore]:
    """The scores of pairs, in order."""
    scores = score_pairs(scorer, pairs)
    perturbed = [number for number, pair in enumerate(pairs) if pair.perturbed_prompt]
    margins = score_under_perturbed_prompts(scorer, [pairs[number] for number in perturbed]).margin
    under_perturbed = dict(zip(perturbed, margins.tolist(), strict=True))
    sides = [list(zip(side.mu.tolist(), side.sigma.tolist(), strict=True)) for side in (scores.winner, scores.loser)]
    return [
        PairScore(pair.without_images, winner, loser, under_perturbed.get(number))
        for number, (pair, winner, loser) in enumerate(zip(pairs, *sides, strict=True))
    ]


def as_pair_scores(scores: Sequence[PairScore]) -> PairScores:
    """The scores as arrays."""
    sides = (np.array([getattr(score, side) for score in scores], np.float32) for side in ("winner", "loser"))
    winner, loser = (Scores(mu, sigma) for mu, sigma in (side.reshape(-1, 2).T for side in sides))
    return PairScores(winner, loser)


def _sorted(rows: Sequence[tuple[str, PairScore | UnreadableRow]], source: PairSource) -> HeldOutScores:
    """Raises UserError if `too_many` rows cannot be read."""
    order = {folder: number for number, folder in enumerate(source.folders)}
    scored = [(PairKey(order[folder], row.pair.pair_id), row) for folder, row in rows if isinstance(row, PairScore)]
    scored.sort(key=lambda entry: entry[0])
    unreadable = [row for _, row in rows if isinstance(row, UnreadableRow)]
    unreadable.sort(key=lambda row: row.pair_id)
    left_out = describe(unreadable, len(rows)) if unreadable else ""
    if too_many(len(unreadable), len(rows)):
        raise refusal(left_out, source.name)
    return HeldOutScores(tuple(key for key, _ in scored), [row for _, row in scored], left_out)


def _score_places(
    model: str, places: Sequence[RowPlace], serving: ServingSettings
) -> list[tuple[str, PairScore | UnreadableRow]]:
    """The rows of some places with their folders. A thread reads the next pairs while some are scored."""
    scorer = open_scorer(model, serving)
    decode = partial(decode_image, shrink_to=scorer.model.processor.useful_pixels)
    rows = ((place.folder, row) for place in places for row in read_place(place, scorer.check, decode))
    chunks = iter(lambda: list(islice(rows, max(1, serving.batch_images // 2))), [])
    results: list[tuple[str, PairScore | UnreadableRow]] = []
    with closing(prefetched(chunks)) as ahead:
        for chunk in ahead:
            results += [(folder, row) for folder, row in chunk if isinstance(row, UnreadableRow)]
            pairs = [(folder, row) for folder, row in chunk if isinstance(row, Pair)]
            scored = score_each(scorer, [pair for _, pair in pairs])
            results += [(folder, score) for (folder, _), score in zip(pairs, scored, strict=True)]
    return results

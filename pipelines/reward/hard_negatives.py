"""SpatialScore on the hard negatives of the scenes world: its accuracy by kind, for the table of `reward evaluate`."""

from __future__ import annotations

import numpy as np
import ray

from actors.spatialscore import SpatialScorer
from actors.worker_setup import actor_options
from conf.serving import ServingSettings
from conf.settings import Settings
from pipelines.common.intervals import Accuracy, wilson
from pipelines.reward.pair_scores import score_images_of_pairs
from pipelines.reward.served_model import open_scorer, served_model
from pipelines.scenes.checker import can_check
from pipelines.scenes.hard_negatives import HARD_KINDS, hard_negatives

COUNT = 60
"""Pairs of each kind."""
SEED = 27
"""The same pairs for every model, so that models can be compared."""


def measure_hard_negatives(settings: Settings) -> dict[str, Accuracy]:
    """Accuracy by kind of hard negative; empty outside the scenes world. Ray must be initialized."""
    if not can_check(settings.flux):
        return {}
    serving = settings.serving
    task = ray.remote(_measure).options(**actor_options(serving.threads, serving.cpus, serving.gpus))
    return ray.get(task.remote(served_model(settings), serving))


def accuracy_by_kind(scorer: SpatialScorer, count: int = COUNT, seed: int = SEED) -> dict[str, Accuracy]:
    """Share of pairs whose winner has the higher mu, by kind. A tie counts as wrong."""
    found: dict[str, Accuracy] = {}
    for kind in HARD_KINDS:
        pairs = hard_negatives(kind, count, seed)
        winners, losers = [pair.winner for pair in pairs], [pair.loser for pair in pairs]
        margin = score_images_of_pairs(scorer, winners, losers, [pair.prompt.text for pair in pairs]).margin
        if accuracy := wilson(np.asarray(margin > 0)):
            found[kind] = accuracy
    return found


def _measure(model: str, serving: ServingSettings) -> dict[str, Accuracy]:
    return accuracy_by_kind(open_scorer(model, serving))

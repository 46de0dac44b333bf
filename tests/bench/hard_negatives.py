"""Accuracy of SpatialScore models on many hard negatives, and on held-out pairs of preference datasets.

python -m tests.bench.hard_negatives runs/a/reward/model runs/b/reward/model
python -m tests.bench.hard_negatives runs/*/reward/model --count 500 --pairs runs/a/preferences runs/b/preferences
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from itertools import chain

import numpy as np

from actors.spatialscore import SpatialScorer
from pipelines.reward.data import Pair, read_pairs
from pipelines.reward.hard_negatives import SEED
from pipelines.reward.locations import PairSource
from pipelines.reward.pair_scores import score_images_of_pairs, score_pairs
from pipelines.scenes.hard_negatives import HARD_KINDS, HardNegative, hard_negatives


def main(models: Sequence[str], pairs: Sequence[str], count: int) -> None:
    """Prints one row for each kind of pair: number of pairs, share in the right order by each model, and the mean."""
    scorers = [SpatialScorer.from_pretrained(model, threads=1) for model in models]
    for kind in HARD_KINDS:
        hard = hard_negatives(kind, count, SEED)
        for name, part in _parts(kind, hard).items():
            right = [_right(scorer, part) for scorer in scorers]
            _row(name, len(part), right)
    held_out = list(chain.from_iterable(held_out_pairs(folder) for folder in pairs))
    for kind in sorted({pair.kind for pair in held_out}):
        part = [pair for pair in held_out if pair.kind == kind]
        _row(kind, len(part), [float((score_pairs(scorer, part).margin > 0).mean()) for scorer in scorers])


def _parts(kind: str, hard: Sequence[HardNegative]) -> dict[str, list[HardNegative]]:
    """All pairs of a kind, and those with two objects and with three."""
    by_objects = {
        f"{kind}, {relations + 1} objects": [pair for pair in hard if len(pair.prompt.relations) == relations]
        for relations in (1, 2)
    }
    return {kind: list(hard), **{name: part for name, part in by_objects.items() if part}}


def _right(scorer: SpatialScorer, hard: Sequence[HardNegative]) -> float:
    winners, losers = [pair.winner for pair in hard], [pair.loser for pair in hard]
    margin = score_images_of_pairs(scorer, winners, losers, [pair.prompt.text for pair in hard]).margin
    return float((margin > 0).mean())


def held_out_pairs(folder: str) -> list[Pair]:
    """The accepted held-out pairs of a folder of preference pairs."""
    return read_pairs(PairSource((folder,), ("strict", "ordered"), unreviewed=False), ("test",)).pairs


def _row(name: str, count: int, right: Sequence[float]) -> None:
    shares = "".join(f"{share:>9.2%}" for share in right)
    print(f"{name:<28}{count:>6}{shares}   mean {np.mean(right):.2%}", flush=True)


def arguments(description: str | None, count: int) -> argparse.Namespace:
    """The arguments of a bench of models on hard negatives. `count`: the default number of each kind."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", help="SpatialScore directories")
    parser.add_argument("--pairs", nargs="*", default=[], help="folders of preference pairs")
    parser.add_argument("--count", type=int, default=count, help="hard negatives of each kind")
    return parser.parse_args()


if __name__ == "__main__":
    given = arguments(__doc__, 1000)
    main(given.models, given.pairs, given.count)

"""Ensembles of SpatialScore: do several models find wrong pairs better than the margin of one?

    python -m tests.bench.ensembles runs/{a,b,c}/reward/model --pairs runs/{a,b,c}/preferences

prints for each model and for the mean of all models the accuracy on hard negatives and on held-out pairs: of all pairs,
and of the surest 90 % and 80 %. Uncertainty is a small margin |mu_w - mu_l|, or the standard deviation of the margin
over the models. AUROC: how well it ranks the wrong pairs.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from actors.spatialscore import SpatialScorer
from pipelines.reward.hard_negatives import SEED
from pipelines.reward.pair_scores import score_images_of_pairs, score_pairs
from pipelines.reward.uncertainty import auroc
from pipelines.scenes.hard_negatives import HARD_KINDS, hard_negatives
from tests.bench.hard_negatives import arguments, held_out_pairs

SURE = (0.9, 0.8)
"""Shares of the pairs that are kept, the surest first."""


def main(models: Sequence[str], folders: Sequence[str], count: int) -> None:
    """See the docstring of the module."""
    scorers = [SpatialScorer.from_pretrained(model, threads=1) for model in models]
    hard = [pair for kind in HARD_KINDS for pair in hard_negatives(kind, count, SEED)]
    winners, losers, prompts = zip(*((pair.winner, pair.loser, pair.prompt.text) for pair in hard), strict=True)
    _table(
        "hard negatives", np.stack([score_images_of_pairs(each, winners, losers, prompts).margin for each in scorers])
    )
    held_out = [pair for folder in folders for pair in held_out_pairs(folder)]
    if held_out:
        _table("held-out pairs", np.stack([score_pairs(scorer, held_out).margin for scorer in scorers]))


def _table(title: str, margins: np.ndarray) -> None:
    """Prints a row for each model and each uncertainty of the mean. margins: mu_w - mu_l  # [models, N]."""
    shares = "".join(f"{f'surest {share:.0%}':>12}" for share in SURE)
    print(f"{f'{margins.shape[1]} {title}':<38}{'all':>8}{shares}{'AUROC':>8}")
    for number, margin in enumerate(margins):
        _row(f"model {number}, small margin", margin, -np.abs(margin))
    mean, spread = margins.mean(0), margins.std(0)
    _row(f"mean of {len(margins)}, small margin", mean, -np.abs(mean))
    _row(f"mean of {len(margins)}, spread", mean, spread)
    _row(f"mean of {len(margins)}, spread / margin", mean, spread / np.abs(mean))


def _row(name: str, margin: np.ndarray, uncertainty: np.ndarray) -> None:
    right, surest = margin > 0, np.argsort(uncertainty, kind="stable")
    kept = "".join(f"{right[surest[: round(share * len(right))]].mean():>12.2%}" for share in SURE)
    ranking = auroc(uncertainty, ~right)
    print(f"{name:<38}{right.mean():>8.2%}{kept}{'–' if ranking is None else f'{ranking:.3f}':>8}", flush=True)


if __name__ == "__main__":
    given = arguments(__doc__, 500)
    main(given.models, given.pairs, given.count)

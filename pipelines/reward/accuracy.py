"""What is measured of each model on the held-out pairs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from pipelines.common.intervals import Accuracy, PairedTest, wilson
from pipelines.reward.calibration import Calibration
from pipelines.reward.data import Pair
from pipelines.reward.predictions import PairPredictions


@dataclass(frozen=True)
class Accuracies:
    """Held-out accuracy; a field is None where the split holds no such pair."""

    one_change: Accuracy | None  # pairs with 1 changed relation
    more_changes: Accuracy | None  # with 2 or 3
    relations: Accuracy | None  # both together: the paper's "overall"
    exploit: Accuracy | None  # losers with a missing, doubled or recoloured object
    generated: Accuracy | None  # drawn by the base policy, ordered by the checker
    overall: Accuracy | None  # all pairs under their prompt
    perturbed_prompt: Accuracy | None = None  # image_l against image_w under the perturbed prompt; SpatialScore only


@dataclass(frozen=True)
class ModelReport:
    """One model on all held-out pairs."""

    name: str
    accuracies: Accuracies
    by_relation: dict[str, Accuracy]  # among pairs in which a relation of this word was changed
    truncated: int  # pairs whose prompt the model did not read to its end
    unanswered: int  # pairs without an answer, counted as wrong


@dataclass(frozen=True)
class Evaluation:
    """Everything that `reward evaluate` found, the run's SpatialScore first."""

    models: tuple[ModelReport, ...]
    tests: tuple[PairedTest, ...]  # SpatialScore against each rival
    calibrations: tuple[Calibration, ...]  # of SpatialScore: from mu alone, and from mu and sigma


def summarise(
    name: str, judged: PairPredictions, pairs: Sequence[Pair], turned: np.ndarray | None = None
) -> ModelReport:
    """Accuracies of one model's answers. `turned`: margins of image_l over image_w under perturbed prompts  # [M].

    Raises ValueError where `pairs` is empty.
    """
    if not pairs:
        raise ValueError("no held-out pairs to measure on: raise preferences.test_fraction or preferences.pairs")
    right = judged.right

    def among(chosen: Callable[[Pair], bool]) -> Accuracy | None:
        return wilson(right[np.array([chosen(pair) for pair in pairs])])

    accuracies = Accuracies(
        one_change=among(lambda pair: pair.n_perturb == 1),
        more_changes=among(lambda pair: pair.n_perturb > 1),
        relations=among(lambda pair: pair.n_perturb > 0),
        exploit=among(lambda pair: pair.kind == "exploit"),
        generated=among(lambda pair: pair.kind == "generated"),
        overall=wilson(right),
        perturbed_prompt=None if turned is None else wilson(turned > 0),
    )
    words = sorted({word for pair in pairs for word in pair.changed})
    by_word = {word: among(lambda pair, word=word: word in pair.changed) for word in words}
    by_relation = {word: accuracy for word, accuracy in by_word.items() if accuracy}
    unanswered = int(np.isnan(judged.margin).sum())
    return ModelReport(name, accuracies, by_relation, int(judged.truncated.sum()), unanswered)

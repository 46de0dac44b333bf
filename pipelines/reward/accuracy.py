"""Accuracy of a model on the held-out pairs, overall and by kind of pair."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from pipelines.common.intervals import Accuracy, PairedTest, wilson
from pipelines.preferences.dataset.splits import BENCHMARK
from pipelines.reward.baselines.failure import FailedBaseline
from pipelines.reward.baselines.position_bias import TwoOrderPredictions
from pipelines.reward.calibration import Calibration
from pipelines.reward.data import Pair
from pipelines.reward.predictions import PairPredictions
from pipelines.reward.uncertainty import SigmaReport


@dataclass(frozen=True)
class Accuracies:
    """Held-out accuracy. A field is None if the split holds no such pair."""

    one_change: Accuracy | None  # pairs with 1 changed relation
    more_changes: Accuracy | None  # pairs with 2 or 3
    relations: Accuracy | None  # both together: the paper's "overall"
    corrupted: Accuracy | None  # pairs whose loser has a missing, doubled or recoloured object
    generated: Accuracy | None  # images of the base policy, labelled by the checker
    overall: Accuracy | None  # all pairs under their prompt
    benchmark_one_change: Accuracy | None = None  # pairs of the split benchmark with 1 changed relation
    benchmark_more_changes: Accuracy | None = None  # the same with 2 or 3
    benchmark: Accuracy | None = None  # the whole split benchmark
    perturbed_prompt: Accuracy | None = None  # image_l over image_w under the perturbed prompt; SpatialScore only


@dataclass(frozen=True)
class ModelReport:
    """One model on all held-out pairs."""

    name: str
    accuracies: Accuracies
    by_relation: dict[str, Accuracy]  # of pairs in which a relation with this word was changed
    truncated: int  # pairs whose prompt the model could not read to the end
    unanswered: int  # pairs without an answer; they count as wrong
    by_generator: dict[str, Accuracy] = field(default_factory=dict[str, Accuracy])  # of the pairs of each generator
    one_order: float | None = None  # a judge's mean accuracy over both orders, as one question in a random order


@dataclass(frozen=True)
class Evaluation:
    """The result of `reward evaluate`. The first model is SpatialScore."""

    models: tuple[ModelReport, ...]
    tests: tuple[PairedTest, ...]  # SpatialScore against each baseline
    calibrations: tuple[Calibration, ...]  # of SpatialScore: from mu, and from mu and sigma
    left_out: str = ""  # pairs that cannot be read, in one line; no model is measured on them
    uncertainty: SigmaReport | None = None  # of SpatialScore
    hard_negatives: dict[str, Accuracy] = field(default_factory=dict[str, Accuracy])  # of SpatialScore, by kind
    failed: tuple[FailedBaseline, ...] = ()  # baselines that could not judge the pairs


def summarize(
    name: str, predictions: PairPredictions, pairs: Sequence[Pair], perturbed_margin: np.ndarray | None = None
) -> ModelReport:
    """Accuracies of one model. `perturbed_margin`: of image_l over image_w under the perturbed prompts  # [M].

    Raises ValueError if there are no pairs.
    """
    if not pairs:
        raise ValueError("there are no held-out pairs to measure on")
    right = predictions.right

    def among(condition: Callable[[Pair], bool]) -> Accuracy | None:
        return wilson(right[np.array([condition(pair) for pair in pairs])])

    accuracies = Accuracies(
        one_change=among(lambda pair: pair.n_perturb == 1),
        more_changes=among(lambda pair: pair.n_perturb > 1),
        relations=among(lambda pair: pair.n_perturb > 0),
        corrupted=among(lambda pair: pair.kind == "corrupted"),
        generated=among(lambda pair: pair.kind == "generated"),
        overall=wilson(right),
        benchmark_one_change=among(lambda pair: pair.split == BENCHMARK and pair.n_perturb == 1),
        benchmark_more_changes=among(lambda pair: pair.split == BENCHMARK and pair.n_perturb > 1),
        benchmark=among(lambda pair: pair.split == BENCHMARK),
        perturbed_prompt=None if perturbed_margin is None else wilson(perturbed_margin > 0),
    )
    words = sorted({word for pair in pairs for word in pair.changed})
    by_word = {word: among(lambda pair, word=word: word in pair.changed) for word in words}
    makers = sorted({pair.generator for pair in pairs if pair.generator})
    by_maker = {maker: among(lambda pair, maker=maker: pair.generator == maker) for maker in makers}
    return ModelReport(
        name,
        accuracies,
        by_relation={word: accuracy for word, accuracy in by_word.items() if accuracy},
        truncated=int(predictions.truncated.sum()),
        unanswered=int(np.isnan(predictions.margin).sum()),
        by_generator={maker: accuracy for maker, accuracy in by_maker.items() if accuracy},
        one_order=float(predictions.one_order.mean()) if isinstance(predictions, TwoOrderPredictions) else None,
    )

"""Accuracy on held-out pairs during a fit: which weights are kept, and when the fit stops."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch.distributed as dist
from torch import Tensor

from conf.reward import RewardSettings
from pipelines.reward.data import Pair, read_place
from pipelines.reward.fit import RewardFitter
from pipelines.reward.locations import PairSource
from pipelines.reward.row_groups import RowPlace, find_rows
from pipelines.reward.sampler import RankInfo

SPLIT = "test"
"""The split benchmark is never looked at during a fit."""


@dataclass(frozen=True)
class HeldOutAccuracy:
    """Accuracy on held-out pairs."""

    right: int
    pairs: int

    @property
    def share(self) -> float:
        """Pairs in the right order; a tie is wrong."""
        return self.right / self.pairs if self.pairs else math.nan


class Validation:
    """Measures the accuracy on held-out pairs, each rank on its share of them."""

    def __init__(self, source: PairSource, settings: RewardSettings, rank: RankInfo) -> None:
        """Finds the pairs. Their images are read at the first measurement."""
        places = find_rows(source, (SPLIT,), settings.evaluate_pairs, sample=True) if settings.evaluate_pairs else []
        single = [RowPlace(place.folder, place.path, place.index, (row,)) for place in places for row in place.rows]
        self._share = single[rank.rank :: rank.ranks]
        self._chunk = settings.pairs_of_a_pass(rank.ranks)
        self._calls = math.ceil(math.ceil(len(single) / rank.ranks) / self._chunk)  # equal on all ranks
        self._pairs: list[Pair] | None = None

    def measure(self, fitter: RewardFitter) -> HeldOutAccuracy:
        """The accuracy over all ranks, each of which must call it. Pairs that cannot be read are left out."""
        if self._pairs is None:
            self._pairs = self._read(fitter)
        right = 0
        for call in range(self._calls):
            chunk = self._pairs[call * self._chunk : (call + 1) * self._chunk]
            right += int((fitter.margins(chunk) > 0).sum())
        counts = [(0, 0)]
        if dist.is_initialized():
            counts = [(0, 0)] * dist.get_world_size()
            dist.all_gather_object(counts, (right, len(self._pairs)))
        else:
            counts = [(right, len(self._pairs))]
        return HeldOutAccuracy(sum(count for count, _ in counts), sum(pairs for _, pairs in counts))

    def _read(self, fitter: RewardFitter) -> list[Pair]:
        processor = fitter.processor
        check, decode = processor.template.encode, processor.bounds.decode
        rows = [row for place in _joined(self._share) for row in read_place(place, check, decode)]
        return [row for row in rows if isinstance(row, Pair)]


@dataclass
class BestWeights:
    """The best weights so far, and how long ago they were measured."""

    keep: bool  # their tensors, too; on rank 0
    accuracy: float = -1.0
    step: int = 0
    stale: int = 0  # measurements since then
    trained: dict[str, Tensor] = field(default_factory=dict[str, Tensor])

    def add(self, accuracy: float, step: int, trained: dict[str, Tensor]) -> None:
        """Adds a measurement. A tie counts as worse: the earlier weights have learned less by heart."""
        if accuracy > self.accuracy:
            self.accuracy, self.step, self.stale = accuracy, step, 0
            self.trained = trained if self.keep else {}
        else:
            self.stale += 1

    def state(self) -> dict[str, Any]:
        """What `of` needs: tensors and numbers only."""
        return {"accuracy": self.accuracy, "step": self.step, "stale": self.stale, "trained": self.trained}

    @classmethod
    def of(cls, keep: bool, state: dict[str, Any] | None) -> BestWeights:
        """The state of a checkpoint; None at a fresh start."""
        if state is None:
            return cls(keep)
        return cls(keep, state["accuracy"], state["step"], state["stale"], state["trained"] if keep else {})


def _joined(places: Sequence[RowPlace]) -> list[RowPlace]:
    """Places of single rows as one place for each row group, which is then opened once."""
    rows: dict[tuple[str, str, int], list[int]] = {}
    for place in places:
        rows.setdefault((place.folder, place.path, place.index), []).extend(place.rows)
    return [RowPlace(*group, tuple(numbers)) for group, numbers in rows.items()]

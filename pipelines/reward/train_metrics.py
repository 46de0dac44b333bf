"""Metrics of a fit between two reports: sums over comparisons that add up over steps and workers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch.distributed as dist
from torch import Tensor

from pipelines.reward.data import Pair
from pipelines.reward.unreadable import UnreadableRow, describe, too_many


@dataclass
class TrainMetrics:
    """Sums over comparisons, and the rows that could not be read."""

    pairs: int = 0  # that were read
    flops: float = 0.0  # of the model's forward and backward passes
    loss: float = 0.0
    margin: float = 0.0  # of mu_w - mu_l
    sigma: float = 0.0  # over all rows, scaled to one value per comparison
    comparisons: Counter[str] = field(default_factory=Counter[str])  # by group: "all", a kind of pair, a relation
    correct: Counter[str] = field(default_factory=Counter[str])  # comparisons in the right order, by group
    unreadable: list[UnreadableRow] = field(default_factory=list[UnreadableRow])

    @property
    def rows(self) -> int:
        """The rows, readable or not."""
        return self.pairs + len(self.unreadable)

    def add(self, pairs: Sequence[Pair], margins: Tensor, losses: Tensor, sigma: Tensor) -> None:
        """Adds one step. pairs, margins, losses: of each comparison  # [C]. sigma: of each row  # [R]."""
        self.loss += losses.sum().item()
        self.margin += margins.sum().item()
        self.sigma += sigma.mean().item() * len(pairs)
        for pair, margin in zip(pairs, margins.tolist(), strict=True):
            for group in _groups(pair):
                self.comparisons[group] += 1
                self.correct[group] += margin > 0

    def merge(self, other: TrainMetrics) -> None:
        """Adds another worker's metrics."""
        self.pairs += other.pairs
        self.flops += other.flops
        self.loss += other.loss
        self.margin += other.margin
        self.sigma += other.sigma
        self.comparisons.update(other.comparisons)
        self.correct.update(other.correct)
        self.unreadable += other.unreadable

    def means(self) -> dict[str, float]:
        """Means over comparisons. Accuracy over all comparisons and by group; a tie counts as wrong."""
        count = self.comparisons["all"]
        if not count:
            return {}
        accuracy = {
            "accuracy" if group == "all" else f"accuracy/{group}": self.correct[group] / total
            for group, total in sorted(self.comparisons.items())
        }
        return {"loss": self.loss / count, "margin": self.margin / count, "sigma": self.sigma / count, **accuracy}


@dataclass
class RowCount:
    """The rows that a fit has read since its start or resumption, on all workers."""

    rows: int = 0
    unreadable: list[UnreadableRow] = field(default_factory=list[UnreadableRow])

    def add(self, metrics: TrainMetrics) -> None:
        """Adds the rows since the last report."""
        self.rows += metrics.rows
        self.unreadable += metrics.unreadable

    @property
    def too_many(self) -> bool:
        """Whether too many of the rows cannot be read."""
        return too_many(len(self.unreadable), self.rows)

    @property
    def message(self) -> str:
        """How many rows cannot be read, and which ones."""
        return describe(self.unreadable, self.rows)


def over_workers(metrics: TrainMetrics) -> TrainMetrics:
    """The sum of all workers' metrics, on every worker. Every worker must call it."""
    if not dist.is_initialized():
        return metrics
    gathered = [TrainMetrics() for _ in range(dist.get_world_size())]
    dist.all_gather_object(gathered, metrics)
    total = TrainMetrics()
    for part in gathered:
        total.merge(part)
    return total


def _groups(pair: Pair) -> Iterable[str]:
    yield "all"
    yield f"{pair.n_perturb} changed" if pair.n_perturb else pair.kind
    yield from sorted(set(pair.changed))

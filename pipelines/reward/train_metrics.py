"""What fitting saw between two reports: sums that add up over steps and workers, and the rates made of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch.distributed as dist
from torch import Tensor

from pipelines.reward.data import Pair, Unreadable


@dataclass
class TrainMetrics:
    """Sums over comparisons, and the pairs that could not be read."""

    pairs: int = 0
    flops: float = 0.0  # of the model's forward and backward passes
    loss: float = 0.0
    margin: float = 0.0  # of mu_w - mu_l
    sigma: float = 0.0  # of all rows
    groups: dict[str, tuple[int, int]] = field(default_factory=lambda: defaultdict(lambda: (0, 0)))  # right, all
    unreadable: list[Unreadable] = field(default_factory=list)

    def add(self, pairs: Sequence[Pair], margins: Tensor, losses: Tensor, sigma: Tensor) -> None:
        """Counts one step: `pairs[c]` is the pair of comparison c, with its margin and loss  # [C]."""
        self.loss += losses.sum().item()
        self.margin += margins.sum().item()
        self.sigma += sigma.mean().item() * len(pairs)
        for pair, margin in zip(pairs, margins.tolist(), strict=True):
            for group in _groups(pair):
                right, count = self.groups[group]
                self.groups[group] = (right + (margin > 0), count + 1)

    def merge(self, other: TrainMetrics) -> None:
        """Adds another worker's tally."""
        for name in ("pairs", "flops", "loss", "margin", "sigma"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for group, (right, count) in other.groups.items():
            mine = self.groups[group]
            self.groups[group] = (mine[0] + right, mine[1] + count)
        self.unreadable += other.unreadable

    def rates(self) -> dict[str, float]:
        """Means over comparisons; accuracy, a tie being wrong, over all and by group."""
        count = self.groups["all"][1]
        if not count:
            return {}
        accuracy = {
            "accuracy" if group == "all" else f"accuracy/{group}": right / total
            for group, (right, total) in sorted(self.groups.items())
        }
        return {"loss": self.loss / count, "margin": self.margin / count, "sigma": self.sigma / count, **accuracy}


def over_workers(tally: TrainMetrics) -> TrainMetrics:
    """The sum of all workers' tallies, on every one of them."""
    if not dist.is_initialized():
        return tally
    gathered: list[dict[str, object]] = [{}] * dist.get_world_size()
    dist.all_gather_object(gathered, {**vars(tally), "groups": dict(tally.groups)})
    total = TrainMetrics()
    for values in gathered:
        total.merge(TrainMetrics(**values))  # pyright: ignore[reportArgumentType]
    return total


def _groups(pair: Pair) -> Iterable[str]:
    yield "all"
    yield f"{pair.n_perturb} changed" if pair.n_perturb else pair.kind
    yield from sorted(set(pair.changed))

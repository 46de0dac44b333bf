"""Stage 1: preference pairs."""

from __future__ import annotations

from dataclasses import dataclass

from conf.rules import at_least, between


@dataclass(frozen=True)
class PreferencesSettings:
    """Stage 1: how many pairs, of which kinds, and where they go."""

    pairs: int = 6000  # rows to write
    seed: int = 0
    shard_rows: int = 250  # rows of a parquet file
    test_fraction: float = 0.1  # share of prompt groups kept for the `test` split
    perturb_one: float = 0.5  # share of perturbed pairs with exactly one changed relation; the others have 2 or 3
    exploit_fraction: float = 0.25  # pairs whose loser has a missing, doubled or recoloured object
    generated_fraction: float = 0.3  # pairs drawn by the base policy and labelled by the checker
    batch_size: int = 50  # pairs a painter draws at once
    painters: int = 2  # actors that hold the base policy and draw generated pairs
    painter_threads: int = 1
    painter_cpus: float = 0.1  # Ray CPUs such an actor reserves; threads, not this, decide what it uses
    painter_gpus: float = 0.0  # Ray GPUs such an actor reserves

    def __post_init__(self) -> None:
        at_least("preferences.pairs", self.pairs, 10)
        at_least("preferences.shard_rows", self.shard_rows, 1)
        at_least("preferences.batch_size", self.batch_size, 1)
        at_least("preferences.painters", self.painters, 1)
        at_least("preferences.painter_threads", self.painter_threads, 1)
        for name in ("test_fraction", "perturb_one", "exploit_fraction", "generated_fraction"):
            between(f"preferences.{name}", getattr(self, name), 0.0, 1.0)
        if self.exploit_fraction + self.generated_fraction > 1.0:
            raise ValueError(
                "preferences.exploit_fraction + preferences.generated_fraction must be at most 1, got "
                f"{self.exploit_fraction} + {self.generated_fraction}: lower one of them"
            )

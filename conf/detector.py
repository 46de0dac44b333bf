"""The reward `mix.detector`: rules of GenEval's kind, read from the boxes of an open-vocabulary detector."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from conf.rules import at_least, between, gpus, one_of


@dataclass(frozen=True)
class DetectorSettings:
    """An OWLv2, what counts as found, and when one thing is beside another."""

    model: str = "google/owlv2-base-patch16-ensemble"  # directory or hub id
    dtype: str = "float32"  # float32 | bfloat16
    threshold: float = 0.3  # confidence above which a box counts; GenEval's value, of another detector
    margin: float = 0.1  # share of both boxes' sizes by which their centres must be apart; GenEval's value
    batch_images: int = 12  # in one forward pass
    min_replicas: int = 1
    max_replicas: int = 1  # grows with the queue as the pool of SpatialScore does: see section `pool`
    threads: int = 1
    cpus: float = 0.1  # Ray CPUs a replica reserves
    gpus: float = 0.0  # a fraction shares a GPU with other roles
    nodes: str = ""  # node group to run on; empty: any
    runtime_env: dict[str, Any] = field(default_factory=dict)  # Ray's, of the replicas: pip, env_vars and so on

    def __post_init__(self) -> None:
        one_of("detector.dtype", self.dtype, ("float32", "bfloat16"))
        between("detector.threshold", self.threshold, 0.0, 1.0)
        for name in ("margin", "cpus"):
            at_least(f"detector.{name}", getattr(self, name), 0.0)
        gpus("detector.gpus", self.gpus)
        for name in ("batch_images", "min_replicas", "max_replicas", "threads"):
            at_least(f"detector.{name}", getattr(self, name), 1)

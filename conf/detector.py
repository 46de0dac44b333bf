"""`detector`: a reward by GenEval's rules, computed from the boxes of an open-vocabulary detector."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from conf.rules import Dtype, Section, at_least, between, gpu_count


@dataclass(frozen=True)
class DetectorSettings(Section):
    """An OWLv2 detector, its thresholds, and the replicas that run it."""

    section: ClassVar[str] = "detector"

    model: str = "google/owlv2-base-patch16-ensemble"
    """Directory or hub id of the detector."""

    dtype: Dtype = "float32"
    """Precision of the weights."""

    threshold: float = field(default=0.3, metadata=between(0, 1))
    """Confidence above which a box counts. GenEval: 0.3, with another detector."""

    margin: float = field(default=0.1, metadata=at_least(0))
    """Fraction of both boxes' sizes by which their centres must be apart. GenEval: 0.1."""

    batch_images: int = field(default=12, metadata=at_least(1))
    """Images in one forward pass."""

    min_replicas: int = field(default=1, metadata=at_least(1))
    """Replicas at least."""

    max_replicas: int = field(default=1, metadata=at_least(1))
    """Replicas at most. They are added with the load as in section serving."""

    threads: int = field(default=1, metadata=at_least(1))
    """CPU threads of a replica."""

    cpus: float = field(default=0.1, metadata=at_least(0))
    """Ray CPUs that a replica reserves."""

    gpus: float = field(default=0.0, metadata=gpu_count())
    """Ray GPUs that a replica reserves. A fraction shares a GPU with other roles."""

    node_group: str = ""
    """Node group (label ray.io/node-group) of the replicas. Empty: any node."""

    runtime_env: dict[str, Any] = field(default_factory=dict[str, Any])
    """Ray runtime environment of the replicas: pip, env_vars and so on."""

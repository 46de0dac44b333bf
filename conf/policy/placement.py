"""`policy.rollout` and `policy.learner`: the Ray actors of stage 3 and the resources they reserve.

With `policy.placement=colocated` each learner rank samples too, and rollout actors are extra.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from conf.errors import SettingsError
from conf.rules import Section, at_least, gpu_count


@dataclass(frozen=True)
class RolloutSettings(Section):
    """The actors that sample images."""

    section: ClassVar[str] = "policy.rollout"

    max_actors: int = field(default=2, metadata=at_least(0))
    """Rollout actors at most. Actors that do not fit on the cluster join when nodes are added. 0: the ranks alone."""

    min_actors: int = field(default=1, metadata=at_least(0))
    """The run starts with this many. Actors above this number are stopped if another role lacks resources."""

    threads: int = field(default=1, metadata=at_least(1))
    """CPU threads of an actor."""

    cpus: float = field(default=0.1, metadata=at_least(0))
    """Ray CPUs that an actor reserves. The number of threads decides what it uses."""

    gpus: float = field(default=0.0, metadata=gpu_count())
    """Ray GPUs that an actor reserves. A fraction shares a GPU with other roles."""

    node_group: str = ""
    """Node group (label ray.io/node-group, the name of a KubeRay group) of the actors. Empty: any node."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.min_actors > self.max_actors:
            raise SettingsError(
                "policy.rollout.min_actors must be at most policy.rollout.max_actors, got "
                f"{self.min_actors} > {self.max_actors}"
            )


@dataclass(frozen=True)
class LearnerSettings(Section):
    """The ranks that compute gradients."""

    section: ClassVar[str] = "policy.learner"

    ranks: int = field(default=1, metadata=at_least(1))
    """Data-parallel learner processes."""

    threads: int = field(default=1, metadata=at_least(1))
    """CPU threads of a rank."""

    cpus: float = field(default=0.1, metadata=at_least(0))
    """Ray CPUs that a rank reserves."""

    gpus: float = field(default=0.0, metadata=gpu_count())
    """Ray GPUs that a rank reserves. With several ranks a fraction must be above 0.5. 0: learn on the CPU."""

    node_group: str = ""
    """Node group (label ray.io/node-group) of the ranks. Empty: any node."""

    placement: Literal["pack", "strict_pack", "spread", "strict_spread"] = "pack"
    """Ray's placement strategy: on few nodes, on one node, on many nodes, or one rank a node."""

    engine: Literal["torch", "deepspeed"] = "torch"
    """Training engine. More than one rank needs deepspeed."""

    zero_stage: Literal[1, 2, 3] = 2
    """ZeRO stage of the engine deepspeed. Stage 3 shards the frozen base model too."""

    replay_batch: int = field(default=36, metadata=at_least(0))
    """Rows (one image at one denoise step) in one forward pass of the learner. 0: the batch shape of the sampler."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.ranks > 1 and 0 < self.gpus <= 0.5:
            raise SettingsError(
                f"policy.learner.gpus must be above 0.5 for policy.learner.ranks={self.ranks}, got {self.gpus}, "
                "because NCCL needs one GPU for each rank: use e.g. 1, or 0 to learn on CPUs, or policy.learner.ranks=1"
            )
        if not self.cpus and not self.gpus:
            raise SettingsError(
                "policy.learner.cpus and policy.learner.gpus must not both be 0, because Ray cannot reserve an empty "
                "resource bundle: raise one, e.g. policy.learner.cpus=0.1"
            )
        if self.ranks > 1 and self.engine != "deepspeed":
            raise SettingsError(
                f"policy.learner.ranks={self.ranks} needs policy.learner.engine=deepspeed, got {self.engine}"
            )
        if self.zero_stage == 3 and self.engine != "deepspeed":
            raise SettingsError(f"policy.learner.zero_stage=3 needs policy.learner.engine=deepspeed, got {self.engine}")

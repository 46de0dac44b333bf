"""`policy`: the settings of stage 3, and the rules that join its parts."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from conf.errors import SettingsError
from conf.policy.algorithm import AlgorithmSettings
from conf.policy.nft import NftSettings
from conf.policy.optimizer import PolicyOptimizerSettings
from conf.policy.placement import LearnerSettings, RolloutSettings
from conf.policy.records import CheckpointSettings, TrainEvaluationSettings
from conf.policy.sampling import SamplingSettings
from conf.rules import Section, at_least, between, nearest


@dataclass(frozen=True)
class PolicySettings(Section):
    """Stage 3: top-k GRPO on a text-to-image model. Axes: P prompts of an iteration, G images of a group."""

    section: ClassVar[str] = "policy"

    iterations: int = field(default=120, metadata=at_least(1))
    """Iterations, i.e. policy versions to publish."""

    minutes: float = field(default=0.0, metadata=at_least(0))
    """Stop after this training time in minutes as well. 0: no limit."""

    seed: int = field(default=0, metadata=at_least(0))
    """Seed of prompts, initial noise and sampling noise."""

    prompts_per_iteration: int = field(default=12, metadata=at_least(1))
    """Prompts P of an iteration, one group each. Flow-GRPO: 48."""

    group_size: int = field(default=24, metadata=at_least(2))
    """Images G of a group. Paper: 24."""

    placement: Literal["separate", "colocated"] = "separate"
    """Who samples. separate: rollout actors. colocated: each learner rank, with the weights that it learns, and extra
    rollout actors if there are any."""

    max_staleness: int = field(default=0, metadata=at_least(0))
    """Policy versions that a group may lag behind. 0: synchronous. 1: sampling overlaps learning."""

    prompts: str = ""
    """JSON lines of training prompts, {"text": ...}. Empty: the grammar of the embedded scenes world."""

    held_out_prompts: str = ""
    """JSON lines of prompts for the evaluation during training. Empty: the scenes grammar's, or none."""

    multi_relation_fraction: float = field(default=0.4, metadata=between(0, 1))
    """Fraction of the scenes prompts that have two or more relations. Ignored if policy.prompts is set."""

    resume: Literal["auto", "never"] = "auto"
    """auto: continue from the newest checkpoint of the run directory. never: start again."""

    strict_resume: bool = False
    """Refuse to resume with settings or inputs that change what is learned. false: record what changed, and go on."""

    start_from: str = ""
    """What version 0 is: a LoRA of diffusers or peft, the folder of a checkpoint, or a run directory. Empty: base."""

    profile_iterations: tuple[int, ...] = ()
    """Iterations of which traces are written to <run_dir>/profiles, e.g. [3,4]. Empty: none."""

    call_margin_s: float = field(default=600.0, metadata=at_least(1))
    """A call to a worker that takes longer than 10 times the median of its kind plus these seconds is abandoned: its
    worker is replaced, and the call repeated. Before three calls of a kind have finished: 6 times these seconds."""

    sampling: SamplingSettings = field(default_factory=SamplingSettings)
    """The stochastic sampler of training."""

    algorithm: AlgorithmSettings = field(default_factory=AlgorithmSettings)
    """Selection, advantages and loss."""

    nft: NftSettings = field(default_factory=NftSettings)
    """The objective nft."""

    optimizer: PolicyOptimizerSettings = field(default_factory=PolicyOptimizerSettings)
    """AdamW and the learning rate."""

    rollout: RolloutSettings = field(default_factory=RolloutSettings)
    """The actors that sample images."""

    learner: LearnerSettings = field(default_factory=LearnerSettings)
    """The ranks that compute gradients."""

    evaluation: TrainEvaluationSettings = field(default_factory=TrainEvaluationSettings)
    """Evaluation during training."""

    checkpoint: CheckpointSettings = field(default_factory=CheckpointSettings)
    """Checkpoints of the learner."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if any(number < 1 for number in self.profile_iterations):
            raise SettingsError(
                f"policy.profile_iterations are numbers of iterations, from 1 on, got {list(self.profile_iterations)}"
            )
        self._check_group()
        self._check_prompts()
        self._check_placement()
        self._check_old_log_probs()
        if self.algorithm.kl_reference == "start" and not self.start_from:
            raise SettingsError(
                "policy.algorithm.kl_reference=start needs policy.start_from: name the LoRA that the run starts from, "
                "or set policy.algorithm.kl_reference=base"
            )
        if self.algorithm.objective == "grpo" and self.nft != NftSettings():
            raise SettingsError(
                "policy.nft belongs to policy.algorithm.objective=nft, got objective=grpo: set "
                "policy.algorithm.objective=nft, or remove the settings of policy.nft"
            )
        if self.algorithm.ratio_norm == "grpo_guard" and self.sampling.transition != "flow_sde":
            raise SettingsError(
                "policy.algorithm.ratio_norm=grpo_guard needs policy.sampling.transition=flow_sde, got "
                f"{self.sampling.transition}"
            )

    @property
    def samplers(self) -> RolloutSettings | LearnerSettings:
        """The settings of the processes that sample: their threads, CPUs and GPUs."""
        return self.learner if self.placement == "colocated" else self.rollout

    @property
    def sampler_count(self) -> int:
        """How many processes sample at most, without the extra rollout actors of colocated ranks."""
        return self.learner.ranks if self.placement == "colocated" else self.rollout.max_actors

    def _check_group(self) -> None:
        """Raises SettingsError if the selection or the sampling batch does not fit the group size."""
        if 2 * self.algorithm.top_k > self.group_size:
            raise SettingsError(
                "policy.algorithm.top_k must be at most half of policy.group_size, got "
                f"{self.algorithm.top_k} of {self.group_size}: lower top_k or raise group_size"
            )
        batch = self.sampling.batch
        if batch and self.group_size % batch:
            divisors = [size for size in range(1, self.group_size + 1) if self.group_size % size == 0]
            raise SettingsError(
                f"policy.sampling.batch must divide policy.group_size, got {batch} and {self.group_size}, because the "
                f"learner repeats forward passes of one shape: use {nearest(batch, divisors)}"
            )

    def _check_old_log_probs(self) -> None:
        """Raises SettingsError if the learner cannot compute the old log-probabilities."""
        if self.algorithm.old_log_probs == "sampler":
            return
        setting = "policy.algorithm.old_log_probs=learner"
        if self.max_staleness:
            raise SettingsError(
                f"{setting} needs policy.max_staleness=0, got {self.max_staleness}, because the learner has the "
                "weights of the newest policy version only: set one of the two back"
            )
        if self.learner.zero_stage == 3:
            raise SettingsError(
                f"{setting} needs policy.learner.zero_stage=1 or 2, got 3, because ranks with a sharded base must make "
                "equally many forward passes: set one of the two back"
            )

    def _check_placement(self) -> None:
        """Raises SettingsError if nobody could sample, or a rank could not sample while it learns."""
        if self.placement == "separate":
            if not self.rollout.min_actors:
                raise SettingsError(
                    "policy.rollout.min_actors must be at least 1 with policy.placement=separate, got 0, because "
                    "nobody else samples: raise it, or set policy.placement=colocated"
                )
            return
        if self.max_staleness:
            raise SettingsError(
                f"policy.max_staleness must be 0 with policy.placement=colocated, got {self.max_staleness}, because a "
                "worker samples with the weights that it learns: set policy.max_staleness=0, or "
                "policy.placement=separate"
            )
        if self.learner.zero_stage == 3:
            raise SettingsError(
                "policy.learner.zero_stage must be 1 or 2 with policy.placement=colocated, got 3, because ranks with a "
                "sharded base can only make forward passes together: use 2, or policy.placement=separate"
            )

    def _check_prompts(self) -> None:
        """Raises SettingsError if the optimizer steps of an iteration cannot have equally many prompts."""
        steps = self.optimizer.steps_per_iteration
        if self.prompts_per_iteration % steps:
            lower = self.prompts_per_iteration // steps * steps
            raise SettingsError(
                "policy.prompts_per_iteration must be divisible by policy.optimizer.steps_per_iteration, got "
                f"{self.prompts_per_iteration} and {steps}: use "
                f"{nearest(self.prompts_per_iteration, {lower or steps, lower + steps})}"
            )

"""Stage 3: top-k GRPO, and what it is rewarded for."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar

from conf.endpoints import EndpointSettings
from conf.rules import above, at_least, between, gpus, nearest, one_of


@dataclass(frozen=True)
class RewardMixSettings:
    """What the policy is rewarded for: a sum with these weights. A weight of 0 leaves that reward out."""

    spatialscore: float = 1.0  # mu of the run's SpatialScore
    rules: float = 0.0  # `scenes` only: share of objects and relations that the exact checker sees, 0 to 1
    judge: float = 0.0  # grade of a vision-language model, 0 to 10: section `judge`
    detector: float = 0.0  # share of objects and relations that a detector sees, 0 to 1: section `detector`

    def __post_init__(self) -> None:
        if not any((self.spatialscore, self.rules, self.judge, self.detector)):
            raise ValueError("mix needs a reward whose weight is not 0, e.g. mix.spatialscore=1")


@dataclass(frozen=True)
class JudgeSettings(EndpointSettings):
    """A vision-language model behind an OpenAI-compatible endpoint."""

    section: ClassVar[str] = "judge"

    runtime_env: dict[str, Any] = field(default_factory=dict)  # Ray's, of its client: pip, env_vars and so on


@dataclass(frozen=True)
class PolicySettings:
    """Stage 3: top-k GRPO on FLUX. Axes: P prompts, G group, T denoise steps, K trained steps."""

    iterations: int = 120  # policy versions to publish
    minutes: float = 5.0  # stop after this training time as well; 0: no limit
    seed: int = 0
    prompts_per_step: int = 12  # P
    group_size: int = 24  # G
    top_k: int = 6  # the best k and the worst k of a group are trained on; 0: the whole group
    stats_over: str = "selected"  # advantages' mean and std over: selected | group
    stats_scope: str = "batch"  # advantages' std over: group | batch (all groups of an update)
    advantage_clip: float = 0.0  # on |advantages|; 0: none. Of n scores none is over sqrt(n - 1) of their own stds away
    steps: int = 6  # T, while sampling for training
    initial_noise: str = "shared"  # of a group's images: own | shared (they differ only by what the noisy steps draw)
    noise_level: float = 0.7  # a
    transition: str = "flow_sde"  # flow_sde | cps
    last_step_deterministic: bool = True
    trained_steps: int = 3  # K, without a window: the first K noisy steps are trained; 0: all that draw noise
    window: int = 3  # draw noise on, and train, a window of this many steps, the others are ODE steps; 0: no window
    window_position: str = "sliding"  # first | sliding (MixGRPO) | random (an iteration's own)
    window_every: int = 4  # iterations after which a sliding window moves on by one step
    lr: float = 3e-3
    warmup_iterations: int = 8  # the rate rises to `lr` over so many; 1: no warm-up
    final_lr_fraction: float = 0.1  # linear decay over `iterations` down to this share
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 1e-4
    clip_range: float = 1e-4  # on the ratio of mean log-probs
    ratio: str = "plain"  # plain | guard (GRPO-Guard: normalised over the steps; needs a smaller clip_range, e.g. 2e-6)
    kl_weight: float = 0.0
    kl_form: str = "flow_grpo"  # flow_grpo | gaussian | velocity
    anchor_weight: float = 0.03  # of mean (v - v_base)^2 at the last steps, which no iteration trains; 0: none
    anchor_samples: int = 2  # of a group's kept samples, a row each
    max_grad_norm: float = 1.0
    updates_per_iteration: int = 2  # optimizer steps an iteration; divides prompts_per_step
    sampling_groups: int = 1  # groups that are sampled in one call of a rollout actor; divides prompts_per_step
    sampling_rows: int = 0  # images in one forward while sampling; 0: all of a call
    replay_rows: int = 36  # (sample, step) rows in one forward of the learner; 0: the sampler's own batch shape
    ema_decay: float = 0.95
    max_staleness: int = 0  # 0: synchronous; 1: sampling overlaps learning
    ratio_tolerance: float = 2e-5  # on-policy gate: |ratio - 1| allowed before the first update
    long_fraction: float = 0.4  # `scenes`: share of prompts with two or more relations
    prompts: str = ""  # JSON lines of prompts ({"text": …}); empty: the scene grammar of the embedded model
    held_out_prompts: str = ""  # the same for evaluation during training; empty: the scene grammar's, or none
    rollout_actors: int = 2  # at most; those that find no room join later, when nodes do
    min_rollout_actors: int = 1  # a run starts with these; the others give way where another role finds no room
    rollout_threads: int = 1
    rollout_cpus: float = 0.1  # Ray CPUs an actor reserves; threads, not this, decide what it uses
    rollout_gpus: float = 0.0  # a fraction shares a GPU with other roles
    rollout_nodes: str = ""  # node group (label ray.io/node-group, a KubeRay group's name) to sample on; empty: any
    learner_ranks: int = 1
    learner_threads: int = 1
    learner_cpus: float = 0.1
    learner_gpus: float = 0.0
    learner_nodes: str = ""  # node group to learn on; empty: any
    learner_placement: str = "pack"  # pack (on few nodes) | strict_pack (on one) | spread | strict_spread (one a node)
    engine: str = "torch"  # torch | deepspeed; more than one rank needs deepspeed
    zero_stage: int = 2  # of the engine `deepspeed`: 1, 2, or 3, which shards the frozen base too
    evaluate_every: int = 10  # iterations between held-out evaluations during training; 0: never
    evaluate_prompts: int = 96  # held-out prompts of such an evaluation, half of them long; one image each
    checkpoint_every: int = 1  # iterations
    checkpoint_dir: str = ""  # any path or URI that pyarrow.fs knows; empty: <run_dir>/policy/checkpoints
    keep_checkpoints: int = 3
    max_idle_updates: int = 10  # in a row that may change nothing (no gradient, or none that is finite)
    redraws: int = 2  # times that a group without spread is replaced by one of another prompt
    resume: str = "auto"  # auto | never

    def __post_init__(self) -> None:
        one_of("policy.transition", self.transition, ("flow_sde", "cps"))
        one_of("policy.initial_noise", self.initial_noise, ("own", "shared"))
        one_of("policy.stats_over", self.stats_over, ("selected", "group"))
        one_of("policy.stats_scope", self.stats_scope, ("group", "batch"))
        one_of("policy.kl_form", self.kl_form, ("flow_grpo", "gaussian", "velocity"))
        one_of("policy.engine", self.engine, ("torch", "deepspeed"))
        one_of("policy.window_position", self.window_position, ("first", "sliding", "random"))
        one_of("policy.ratio", self.ratio, ("plain", "guard"))
        one_of("policy.resume", self.resume, ("auto", "never"))
        one_of("policy.learner_placement", self.learner_placement, ("pack", "strict_pack", "spread", "strict_spread"))
        one_of("policy.zero_stage", self.zero_stage, (1, 2, 3))
        for name in ("iterations", "prompts_per_step", "sampling_groups", "steps", "updates_per_iteration",
                     "rollout_actors", "rollout_threads", "learner_ranks", "learner_threads", "checkpoint_every",
                     "keep_checkpoints", "window_every", "max_idle_updates", "warmup_iterations"):  # fmt: skip
            at_least(f"policy.{name}", getattr(self, name), 1)
        for name in ("sampling_rows", "replay_rows", "evaluate_every", "evaluate_prompts", "redraws", "trained_steps"):
            at_least(f"policy.{name}", getattr(self, name), 0)
        at_least("policy.group_size", self.group_size, 2)
        at_least("policy.max_staleness", self.max_staleness, 0)
        for name in ("advantage_clip", "anchor_weight", "kl_weight", "weight_decay", "ratio_tolerance",
                     "rollout_cpus", "learner_cpus"):  # fmt: skip
            at_least(f"policy.{name}", getattr(self, name), 0.0)
        for name in ("lr", "clip_range", "max_grad_norm"):
            above(f"policy.{name}", getattr(self, name), 0)
        if not all(0.0 <= beta < 1.0 for beta in self.betas):
            raise ValueError(f"policy.betas must both lie in [0, 1), got {list(self.betas)}: take e.g. [0.9, 0.99]")
        for name in ("rollout_gpus", "learner_gpus"):
            gpus(f"policy.{name}", getattr(self, name))
        self._check_ranks()
        at_least("policy.anchor_samples", self.anchor_samples, 1)
        between("policy.long_fraction", self.long_fraction, 0.0, 1.0)
        between("policy.ema_decay", self.ema_decay, 0.0, 1.0)
        if self.noise_level <= 0:
            raise ValueError(
                f"policy.noise_level must be above 0, got {self.noise_level}: without noise every image of a group "
                "is a function of its first latent only and no log-probability exists"
            )
        if self.top_k < 0 or 2 * self.top_k > self.group_size:
            raise ValueError(
                f"policy.top_k must lie between 0 and half of policy.group_size, got {self.top_k} of "
                f"{self.group_size}: lower top_k or enlarge the group"
            )
        noisy = self.steps - 1 if self.last_step_deterministic or self.transition == "cps" else self.steps
        if not self.window and self.trained_steps > noisy:
            raise ValueError(
                f"policy.trained_steps must lie between 0 and the {noisy} noisy steps, got {self.trained_steps}"
            )
        if not 0 <= self.window <= noisy:
            raise ValueError(
                f"policy.window must lie between 0 and the {noisy} noisy steps, got {self.window}; 0: no window"
            )
        if self.ratio == "guard" and self.transition != "flow_sde":
            raise ValueError(f"policy.ratio=guard needs policy.transition=flow_sde, got {self.transition}")
        if self.transition == "cps" and self.noise_level > 1:
            raise ValueError(f"policy.noise_level must be at most 1 with transition cps, got {self.noise_level}")
        between("policy.min_rollout_actors", self.min_rollout_actors, 1, self.rollout_actors)
        if self.prompts_per_step % self.sampling_groups:
            raise ValueError(
                "policy.sampling_groups must divide policy.prompts_per_step, got "
                f"{self.sampling_groups} and {self.prompts_per_step}, as groups sampled together are of one iteration: "
                f"take {nearest(self.sampling_groups, _divisors(self.prompts_per_step))}"
            )
        size, rows, together = self.group_size, self.sampling_rows, self.group_size * self.sampling_groups
        if rows and size % rows and (rows % size or together % rows):
            whole_groups = (size * groups for groups in _divisors(self.sampling_groups))
            raise ValueError(
                f"policy.sampling_rows must divide policy.group_size, got {rows} and {size}, or hold whole groups and "
                f"divide the {together} images of policy.sampling_groups={self.sampling_groups}, as forwards of one "
                f"shape are what a replay can repeat: take {nearest(rows, {*_divisors(size), *whole_groups})}"
            )
        if self.evaluate_prompts % 2:
            raise ValueError(
                f"policy.evaluate_prompts must be even, got {self.evaluate_prompts}: half of them are long prompts"
            )
        if self.prompts_per_step % (self.updates_per_iteration * self.learner_ranks):
            step = math.lcm(self.updates_per_iteration * self.learner_ranks, self.sampling_groups)
            less = self.prompts_per_step // step * step
            raise ValueError(
                "policy.prompts_per_step must divide by policy.updates_per_iteration x policy.learner_ranks, got "
                f"{self.prompts_per_step} and {self.updates_per_iteration} x {self.learner_ranks}: take "
                f"{nearest(self.prompts_per_step, {less or step, less + step})}"
            )
        if self.learner_ranks > 1 and self.engine != "deepspeed":
            raise ValueError(
                f"policy.learner_ranks={self.learner_ranks} needs policy.engine=deepspeed, got {self.engine}"
            )
        if self.zero_stage == 3 and self.engine != "deepspeed":
            raise ValueError(f"policy.zero_stage=3 needs policy.engine=deepspeed, got {self.engine}")

    def _check_ranks(self) -> None:
        """Raises ValueError where the learner's ranks reserve what they cannot start with."""
        if self.learner_ranks > 1 and 0 < self.learner_gpus < 1:
            raise ValueError(
                f"policy.learner_gpus must be whole for policy.learner_ranks={self.learner_ranks}, got "
                f"{self.learner_gpus}, as NCCL wants a GPU a rank: take 1, or 0 to learn on CPUs, or "
                "policy.learner_ranks=1"
            )
        if not self.learner_cpus and not self.learner_gpus:
            raise ValueError(
                "policy.learner_cpus and policy.learner_gpus must not both be 0, as Ray reserves no place for nothing: "
                "raise one, e.g. policy.learner_cpus=0.1"
            )


def _divisors(number: int) -> Iterator[int]:
    return (divisor for divisor in range(1, number + 1) if number % divisor == 0)


@dataclass(frozen=True)
class ExportSettings:
    """What a finished run and `policy export` write beside the LoRA."""

    merged: bool = False  # the whole model with the LoRA folded in, to <run_dir>/policy/merged

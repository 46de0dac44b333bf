"""Stage 2: the reward model SpatialScore and how it is trained."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from conf.errors import SettingsError
from conf.flux import EMBEDDED
from conf.rules import Dtype, Section, above, at_least, between, one_of

TIERS = ("strict", "ordered")
"""How sharply an accepted pair differs, see docs/review.md."""


@dataclass(frozen=True)
class SpatialScoreSettings(Section):
    """The reward model: backbone, LoRA and head."""

    section: ClassVar[str] = "spatialscore"

    model: str = EMBEDDED
    """Backbone: "embedded", a directory in transformers format, or a hub id. Paper: Qwen2.5-VL-7B."""

    dtype: Dtype = "float32"
    """Precision of the backbone. The head is always float32."""

    attention: Literal["sdpa", "flash_attention_2", "eager"] = "sdpa"
    """Attention implementation of transformers."""

    pixels: int = field(default=4096, metadata=at_least(64))
    """Every image is resized to about this many pixels."""

    instruction: str = "{prompt}"
    """Question that the backbone is asked. {prompt} stands for the user's text and must appear once."""

    lora_rank: int = field(default=32, metadata=at_least(1))
    """Rank of the LoRA."""

    lora_alpha: int = 64
    """Scale of the LoRA (alpha)."""

    lora_dropout: float = field(default=0.0, metadata=between(0, 0.9))
    """Dropout in the LoRA."""

    head_width: int = field(default=96, metadata=at_least(1))
    """Hidden width of the MLP head."""

    log_sigma_min: float = -5.0
    """Lower clamp of the predicted log sigma."""

    log_sigma_max: float = 3.0
    """Upper clamp of the predicted log sigma."""

    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass to save memory."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.instruction.count("{prompt}") != 1:
            raise SettingsError(f"spatialscore.instruction must contain {{prompt}} once, got {self.instruction!r}")
        if self.log_sigma_min >= self.log_sigma_max:
            raise SettingsError(
                "spatialscore.log_sigma_min must be below spatialscore.log_sigma_max, got "
                f"{self.log_sigma_min} and {self.log_sigma_max}"
            )


@dataclass(frozen=True)
class RewardSettings(Section):
    """Stage 2: training SpatialScore on preference pairs."""

    section: ClassVar[str] = "reward"

    pairs: tuple[str, ...] = ()
    """Published dataset versions to train and evaluate on, one or several. Empty: <run_dir>/preferences."""

    unreviewed: bool = False
    """Also use pairs that wait for review, which nobody has verified."""

    tiers: tuple[str, ...] = TIERS
    """Tiers of accepted pairs to use: strict (the loser keeps what was not changed), ordered, or both."""

    loss: Literal["bt", "sampled", "marginal", "probit"] = "bt"
    """Preference loss: Bradley-Terry on mu, or a loss that uses sigma. Paper: sampled, with s ~ N(mu, sigma^2)."""

    sigma_draws: int = field(default=100, metadata=at_least(1))
    """Draws of s ~ N(mu, sigma^2) for the loss sampled. HPSv3: 1000."""

    batch_size: int = field(default=64, metadata=at_least(1))
    """Pairs of an optimizer step, over all workers. Paper: 32."""

    micro_batch_size: int = field(default=0, metadata=at_least(0))
    """At most this many pairs of a worker in one forward and backward pass, to save memory. 0: all of its share."""

    epochs: int = field(default=5, metadata=at_least(1))
    """Passes over the training pairs."""

    lr: float = field(default=3e-3, metadata=between(0, 1, open_ends=True))
    """Peak learning rate. Paper: 2e-6."""

    warmup_fraction: float = 0.05
    """Fraction of the optimizer steps over which the learning rate rises to lr."""

    final_lr_fraction: float = 0.05
    """The learning rate decays along a cosine to this fraction of lr. 1: constant."""

    weight_decay: float = field(default=0.01, metadata=at_least(0))
    """AdamW's weight decay."""

    max_grad_norm: float = field(default=1.0, metadata=above(0))
    """The gradient is clipped to this norm."""

    both_prompts: bool = True
    """Also train that image_l beats image_w under the perturbed prompt, if there is one. Paper: no."""

    mirror: bool = True
    """Mirror half of the pairs, with left and right exchanged in the text. Paper: no."""

    workers: int = field(default=2, metadata=at_least(1))
    """Data-parallel workers. Paper: 8 GPUs."""

    min_workers: int = 0
    """Elastic training: start and continue with as few workers as this. 0: all workers or none."""

    threads_per_worker: int = field(default=1, metadata=at_least(1))
    """CPU threads of a worker."""

    cpus_per_worker: float = field(default=0.5, metadata=at_least(0))
    """Ray CPUs that a worker reserves."""

    use_gpu: bool = False
    """Give each worker one GPU."""

    engine: Literal["torch", "deepspeed"] = "torch"
    """Training engine: torch (DDP) or deepspeed (ZeRO)."""

    zero_stage: Literal[1, 2, 3] = 2
    """ZeRO stage of the engine deepspeed. Stage 3 shards the frozen backbone too."""

    param_persistence_threshold: int = field(default=100_000, metadata=at_least(0))
    """ZeRO-3 does not shard parameters with fewer elements than this (DeepSpeed's setting of the same name)."""

    shuffle_rows: int = field(default=8192, metadata=at_least(1))
    """Rows that are read and shuffled together, in whole row groups. Memory holds two times as many, decoded."""

    readers: int = field(default=1, metadata=at_least(1))
    """Processes that read and decode images for all workers. They reserve no CPU."""

    evaluate_every: int = field(default=0, metadata=at_least(0))
    """Optimizer steps between measurements on held-out pairs during the fit. 0: at the end of each epoch."""

    evaluate_pairs: int = field(default=256, metadata=at_least(0))
    """Pairs of the split test, at random, for these measurements. 0: none."""

    keep: Literal["last", "best"] = "last"
    """Weights that the fit ends with: the last ones, or those with the best accuracy on held-out pairs."""

    patience: int = field(default=0, metadata=at_least(0))
    """Stop after this many measurements without a better accuracy on held-out pairs. 0: never."""

    log_every: int = field(default=10, metadata=at_least(1))
    """Optimizer steps between reports."""

    peak_tflops: float = 0.0
    """Peak TFLOP/s of a worker's device, for the MFU. 0: measure it with a matrix product at the start."""

    checkpoint_every: int = field(default=50, metadata=at_least(1))
    """Optimizer steps between checkpoints. The end of an epoch always writes one."""

    max_failures: int = 2
    """Restarts of a failed worker group."""

    seed: int = field(default=0, metadata=at_least(0))
    """Seed of initialization, shuffling and mirroring."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.tiers or len(set(self.tiers)) != len(self.tiers) or len(set(self.pairs)) != len(self.pairs):
            raise SettingsError(
                f"reward.tiers must not be empty, and reward.tiers and reward.pairs must not repeat an entry, got "
                f"{list(self.tiers)} and {list(self.pairs)}"
            )
        for tier in self.tiers:
            one_of("reward.tiers", tier, TIERS)
        if self.batch_size < self.workers:
            raise SettingsError(
                f"reward.batch_size must be at least reward.workers, got {self.batch_size} < {self.workers}: raise it"
            )
        if not self.evaluate_pairs and (self.keep == "best" or self.patience):
            raise SettingsError(
                "reward.keep=best and reward.patience need measurements on held-out pairs, got "
                "reward.evaluate_pairs=0: set it to 256 or more"
            )
        if not 0 <= self.min_workers <= self.workers:
            raise SettingsError(
                f"reward.min_workers must lie in [0, reward.workers = {self.workers}], got {self.min_workers}"
            )

    def passes(self, workers: int) -> int:
        """Forward and backward passes that each of `workers` workers does for an optimizer step: equally many."""
        share = math.ceil(self.batch_size / workers)
        return math.ceil(share / self.micro_batch_size) if self.micro_batch_size else 1

    def pairs_of_a_pass(self, workers: int) -> int:
        """The most pairs that one of `workers` workers has in a pass: its share is divided evenly."""
        return math.ceil(math.ceil(self.batch_size / workers) / self.passes(workers))

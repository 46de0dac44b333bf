"""`spatialt2i ablation`: the variants, and how often and how long each is trained."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from conf.rules import Section, at_least, one_of

BASE = "base"

VARIANTS: dict[str, tuple[str, ...]] = {
    BASE: (),  # k = 6, Flow-SDE, sliding window of three noisy steps, synchronous, SpatialScore, all prompts
    "no-filter": ("policy.algorithm.top_k=0",),
    "top-4": ("policy.algorithm.top_k=4",),
    "short-spatialscore": ("policy.multi_relation_fraction=0",),
    "short-rules": ("policy.multi_relation_fraction=0", "rewards.spatialscore=0", "rewards.rules=1"),
    "clip-1e-5": ("policy.algorithm.clip_range=1e-5",),
    "clip-1e-3": ("policy.algorithm.clip_range=1e-3",),
    "kl-0.01": ("policy.algorithm.kl_weight=0.01", "policy.algorithm.advantage_std_over=group"),
    "cps": (  # Flow-GRPO's values for CPS
        "policy.sampling.transition=cps",
        "policy.sampling.noise_level=0.8",
        "policy.algorithm.clip_range=1e-5",
    ),
    "noise-on-all": ("policy.sampling.window=0",),  # five noisy steps; the first three are trained
    "all-steps": ("policy.sampling.window=0", "policy.sampling.train_steps=0"),
    "window-first": ("policy.sampling.window_position=first",),
    "window-random": ("policy.sampling.window_position=random",),
    "window-stride-1": ("policy.sampling.window_stride=1",),
    "independent-noise": ("policy.sampling.shared_initial_noise=false",),
    "group-std": ("policy.algorithm.advantage_std_over=group",),
    "no-base-regularizer": ("policy.algorithm.base_regularizer_weight=0",),
    "staleness-1": ("policy.max_staleness=1",),
    "nft": ("policy.algorithm.objective=nft", "policy.optimizer.ema_decay=0.9"),
}
"""Variant -> overrides on top of the run's settings."""

QUESTIONS: dict[str, tuple[str, ...]] = {
    "Top-k filter": (BASE, "no-filter", "top-4"),
    "Rule reward on short prompts against SpatialScore, evaluated on long prompts": (
        BASE,
        "short-spatialscore",
        "short-rules",
    ),
    "Clip range and KL": (BASE, "clip-1e-5", "clip-1e-3", "kl-0.01"),
    "SDE against CPS": (BASE, "cps"),
    "Noisy and trained steps": (BASE, "noise-on-all", "all-steps", "window-first", "window-random", "window-stride-1"),
    "Initial noise of a group, and the std of its advantages": (BASE, "independent-noise", "group-std"),
    "Base regularizer on the steps that are never trained": (BASE, "no-base-regularizer"),
    "Synchronous against staleness 1": (BASE, "staleness-1"),
    "Top-k GRPO against DiffusionNFT": (BASE, "nft"),
}
"""Question -> the variants that answer it."""


@dataclass(frozen=True)
class AblationSettings(Section):
    """Variants of stage 3, all trained from the same base with the run's SpatialScore and the same seeds."""

    section: ClassVar[str] = "ablation"

    variants: tuple[str, ...] = tuple(VARIANTS)
    """Variants to run. All: see VARIANTS in conf/ablation.py."""

    seeds: int = field(default=3, metadata=at_least(1))
    """Runs of each variant, with seeds 0, 1, and so on."""

    iterations: int = field(default=24, metadata=at_least(1))
    """Iterations of a run. The learning rate is not rescaled."""

    evaluate_every: int = field(default=4, metadata=at_least(1))
    """Iterations between the points of a curve."""

    evaluate_prompts: int = field(default=192, metadata=at_least(2))
    """Held-out prompts of a point, half of them with several relations; one image each."""

    minutes: float = field(default=0.0, metadata=at_least(0))
    """Start no further run after this many wall-clock minutes. 0: no limit."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in self.variants:
            one_of("ablation.variants", name, tuple(VARIANTS))

"""`spatialt2i ablation`: what is varied, how often, and for how long."""

from __future__ import annotations

from dataclasses import dataclass

from conf.rules import at_least, one_of

BASE = "base"

VARIANTS: dict[str, tuple[str, ...]] = {
    BASE: (),  # k = 6, Flow-SDE, noise on three steps that slide, synchronous, SpatialScore, prompts short and long
    "no-filter": ("policy.top_k=0",),
    "top-4": ("policy.top_k=4",),
    "short-spatialscore": ("policy.long_fraction=0",),
    "short-rules": ("policy.long_fraction=0", "mix.spatialscore=0", "mix.rules=1"),
    "clip-1e-5": ("policy.clip_range=1e-5",),
    "clip-1e-3": ("policy.clip_range=1e-3",),
    "kl-0.01": ("policy.kl_weight=0.01",),
    "cps": ("policy.transition=cps", "policy.noise_level=0.8", "policy.clip_range=1e-5"),  # Flow-GRPO's values for CPS
    "noise-on-all": ("policy.window=0",),  # noise on five steps, the first three of them trained
    "all-steps": ("policy.window=0", "policy.trained_steps=0"),
    "window-first": ("policy.window_position=first",),
    "window-random": ("policy.window_position=random",),
    "window-every-1": ("policy.window_every=1",),
    "own-noise": ("policy.initial_noise=own",),
    "group-std": ("policy.stats_scope=group",),
    "no-anchor": ("policy.anchor_weight=0",),
    "staleness-1": ("policy.max_staleness=1",),
}
"""Name -> overrides on top of the run's own settings."""

QUESTIONS: dict[str, tuple[str, ...]] = {
    "Top-k filter": (BASE, "no-filter", "top-4"),
    "A rule reward on short prompts against SpatialScore, judged on long ones": (
        BASE, "short-spatialscore", "short-rules",
    ),
    "Clip range and KL": (BASE, "clip-1e-5", "clip-1e-3", "kl-0.01"),
    "SDE against CPS": (BASE, "cps"),
    "Noisy and trained steps": (BASE, "noise-on-all", "all-steps", "window-first", "window-random", "window-every-1"),
    "A group's initial noise, and what its advantages are divided by": (BASE, "own-noise", "group-std"),
    "Steps that are never trained, held to the base or not": (BASE, "no-anchor"),
    "Synchronous against staleness 1": (BASE, "staleness-1"),
}  # fmt: skip
"""Title -> the variants that answer it."""


@dataclass(frozen=True)
class AblationSettings:
    """Variants of stage 3, each trained from the same base against the run's SpatialScore, under the same seeds."""

    variants: tuple[str, ...] = tuple(VARIANTS)
    seeds: int = 3
    iterations: int = 24  # policy versions of a run; its learning rate stays what it is
    evaluate_every: int = 4  # iterations between points of a curve
    evaluate_prompts: int = 192  # of a point, half of them long; one image each
    minutes: float = 0.0  # no further run is started after this wall-clock time; 0: no limit

    def __post_init__(self) -> None:
        for name in self.variants:
            one_of("ablation.variants", name, tuple(VARIANTS))
        for name in ("seeds", "iterations", "evaluate_every"):
            at_least(f"ablation.{name}", getattr(self, name), 1)
        at_least("ablation.evaluate_prompts", self.evaluate_prompts, 2)
        at_least("ablation.minutes", self.minutes, 0.0)

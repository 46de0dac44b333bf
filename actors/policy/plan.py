"""What one sampling run does at each of its T steps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from conf.evaluation import EvaluationSettings
from conf.policy import PolicySettings


@dataclass(frozen=True)
class SamplingPlan:
    """Which steps draw noise and which of those are trained. Made once, shared by sampler and learner."""

    denoise_steps: int  # T
    transition: str = "flow_sde"
    noise_level: float = 0.0  # a
    noise_steps: tuple[int, ...] = ()  # steps that draw noise; the others are ODE steps
    train_steps: tuple[int, ...] = ()  # steps whose log-probability the learner replays; a subset of `noisy`
    max_batch: int = 0  # images in one forward; 0: all at once
    keep_means: bool = False  # trajectories carry the means of their trained steps
    images_per_noise: int = 1  # neighbouring images that begin with one noise, and differ by what noisy steps draw

    def __post_init__(self) -> None:
        if self.denoise_steps < 1:
            raise ValueError(f"steps must be at least 1, got {self.denoise_steps}")
        if self.noise_steps and self.noise_level <= 0:
            raise ValueError(
                f"steps {self.noise_steps} draw noise, but noise_level is {self.noise_level}: make it positive"
            )
        if self.images_per_noise > 1 and not self.noise_steps:
            raise ValueError("without a noisy step, images that share their initial noise are all the same")
        if not set(self.train_steps) <= set(self.noise_steps):
            raise ValueError(f"trained steps must draw noise: trained {self.train_steps}, noisy {self.noise_steps}")
        if any(not 0 <= step < self.denoise_steps for step in self.noise_steps):
            raise ValueError(f"noisy steps must lie in 0..{self.denoise_steps - 1}, got {self.noise_steps}")
        if self.transition == "cps" and self.denoise_steps - 1 in self.train_steps:
            raise ValueError("the last CPS step draws no noise (std = 0) and cannot be trained: leave it out")

    @classmethod
    def for_training(cls, settings: PolicySettings, iteration: int = 0) -> SamplingPlan:
        """The plan of one iteration.

        Without a window: noise on every step but, by default, the last; the first `trained_steps` of those are trained
        (0: all). With one: noise on the window's steps only, and all of them are trained.
        """
        noisy = tuple(range(_noisy_steps(settings)))
        trained = noisy[: settings.sampling.train_steps] if settings.sampling.train_steps else noisy
        if settings.sampling.window:
            first = _window_start(settings, iteration, len(noisy) - settings.sampling.window + 1)
            noisy = trained = noisy[first : first + settings.sampling.window]
        return cls(
            denoise_steps=settings.sampling.denoise_steps,
            transition=settings.sampling.transition,
            noise_level=settings.sampling.noise_level,
            noise_steps=noisy,
            train_steps=trained,
            max_batch=settings.sampling.batch,
            keep_means=settings.algorithm.ratio_norm == "grpo_guard",
            images_per_noise=settings.group_size if settings.sampling.shared_initial_noise else 1,
        )

    @classmethod
    def for_evaluation(cls, settings: EvaluationSettings, max_batch: int = 0) -> SamplingPlan:
        """Noise-free, as the plain pipeline samples, in forwards of at most so many rows (0: all at once)."""
        return cls(denoise_steps=settings.denoise_steps, max_batch=max_batch)


def first_untrained_step(settings: PolicySettings) -> int:
    """The first of the last steps that no iteration's plan trains; T where the last step is trained."""
    if not settings.sampling.window:
        return settings.sampling.train_steps or _noisy_steps(settings)
    return settings.sampling.window if settings.sampling.window_position == "first" else _noisy_steps(settings)


def _noisy_steps(settings: PolicySettings) -> int:
    """How many steps, from the first, may draw noise."""
    last_is_ode = settings.sampling.last_step_deterministic or settings.sampling.transition == "cps"
    return settings.sampling.denoise_steps - 1 if last_is_ode else settings.sampling.denoise_steps


def _window_start(settings: PolicySettings, iteration: int, positions: int) -> int:
    """first: always the noisiest steps. sliding: one step on every `window_every` iterations, round and round (MixGRPO,
    arXiv 2507.21802). random: drawn for every iteration, as Flow-GRPO-Fast does among a run's first half."""
    match settings.sampling.window_position:
        case "sliding":
            return iteration // settings.sampling.window_stride % positions
        case "random":
            return int(np.random.default_rng([settings.seed, iteration]).integers(positions))
    return 0

"""What the sampler does at each of the T denoise steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from actors.policy.window import window_steps
from conf.evaluation import EvaluationSettings
from conf.policy import PolicySettings


@dataclass(frozen=True)
class SamplingPlan:
    """Which denoise steps draw noise, and which of these are trained. The sampler and the learner share one plan."""

    denoise_steps: int  # T
    transition: Literal["flow_sde", "cps"] = "flow_sde"
    noise_level: float = 0.0  # a
    noise_steps: tuple[int, ...] = ()  # steps that draw noise; the others are ODE steps
    train_steps: tuple[int, ...] = ()  # K steps whose log-probability the learner replays; a subset of noise_steps
    max_batch: int = 0  # images in one forward pass; 0: all
    keep_means: bool = False  # trajectories contain the means of their trained steps (GRPO-Guard needs them)
    images_per_noise: int = 1  # consecutive images that start from the same noise
    keep_ends: bool = False  # a trajectory is only its end: the final latents

    def __post_init__(self) -> None:
        """Raises ValueError for a plan that cannot be sampled or trained."""
        if self.denoise_steps < 1:
            raise ValueError(f"denoise_steps must be at least 1, got {self.denoise_steps}")
        if self.noise_steps and self.noise_level <= 0:
            raise ValueError(
                f"denoise steps {self.noise_steps} draw noise, but noise_level is {self.noise_level}: make it positive"
            )
        if self.images_per_noise > 1 and not self.noise_steps:
            raise ValueError(
                "images that share their initial noise are all equal without a noisy step: add noise_steps"
            )
        if not set(self.train_steps) <= set(self.noise_steps):
            raise ValueError(f"trained steps must draw noise: trained {self.train_steps}, noisy {self.noise_steps}")
        if any(not 0 <= step < self.denoise_steps for step in self.noise_steps):
            raise ValueError(f"noisy steps must lie in 0..{self.denoise_steps - 1}, got {self.noise_steps}")
        if self.transition == "cps" and self.denoise_steps - 1 in self.train_steps:
            raise ValueError("the last CPS step draws no noise (std = 0) and cannot be trained: leave it out")

    @classmethod
    def for_training(cls, settings: PolicySettings, iteration: int = 0) -> SamplingPlan:
        """The plan of one iteration.

        Every denoise step but the last `clean_steps` draws noise. The first `train_steps` of these are trained
        (0: all). With a window, only the steps of the window draw noise, and all of them are trained.
        """
        sampling = settings.sampling
        if settings.algorithm.objective == "nft":
            return cls(denoise_steps=sampling.denoise_steps, max_batch=sampling.batch, keep_ends=True)
        noise_steps = tuple(range(sampling.max_noise_steps))
        train_steps = noise_steps[: sampling.train_steps or None]
        if sampling.window:
            noise_steps = train_steps = window_steps(sampling, settings.seed, iteration)
        return cls(
            denoise_steps=sampling.denoise_steps,
            transition=sampling.transition,
            noise_level=sampling.noise_level,
            noise_steps=noise_steps,
            train_steps=train_steps,
            max_batch=sampling.batch,
            keep_means=settings.algorithm.ratio_norm == "grpo_guard",
            images_per_noise=settings.group_size if sampling.shared_initial_noise else 1,
        )

    @classmethod
    def for_evaluation(cls, settings: EvaluationSettings, max_batch: int = 0) -> SamplingPlan:
        """A plan without noise, which samples as the plain pipeline does. `max_batch`: images in one forward pass."""
        return cls(denoise_steps=settings.denoise_steps, max_batch=max_batch)


def first_untrained_step(settings: PolicySettings) -> int:
    """The first of the last denoise steps that no iteration trains. T if some iteration trains the last step."""
    sampling = settings.sampling
    if not sampling.window:
        return sampling.train_steps or sampling.max_noise_steps
    return sampling.window if sampling.window_position == "first" else sampling.max_noise_steps

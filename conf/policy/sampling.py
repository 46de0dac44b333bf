"""`policy.sampling`: how the images of a group are denoised, and which denoise steps are trained."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from conf.errors import SettingsError
from conf.rules import Section, above, at_least


@dataclass(frozen=True)
class SamplingSettings(Section):
    """The stochastic sampler of training. Axes: T denoise steps, K trained denoise steps."""

    section: ClassVar[str] = "policy.sampling"

    denoise_steps: int = field(default=6, metadata=at_least(1))
    """Denoise steps T of a training image. Paper: 6."""

    transition: Literal["flow_sde", "cps"] = "flow_sde"
    """Stochastic step: Flow-SDE (the paper's Eq. 4) or coefficients-preserving sampling (CPS)."""

    noise_level: float = field(default=0.7, metadata=above(0))
    """Noise level a of the stochastic step. Flow-GRPO uses 0.9 for FLUX.1-dev, and at most 1 is allowed with CPS."""

    clean_steps: int = field(default=1, metadata=at_least(0))
    """The last denoise steps, which draw no noise. 0: noise on every step, as Flow-GRPO; the images stay noisy then."""

    train_steps: int = field(default=3, metadata=at_least(0))
    """Without a window, the first K noisy denoise steps are trained. 0: all noisy steps."""

    window: int = field(default=3, metadata=at_least(0))
    """Only this many consecutive denoise steps draw noise and are trained; the others are ODE steps. 0: no window."""

    window_position: Literal["first", "sliding", "random"] = "sliding"
    """Position of the window: the first steps, sliding (MixGRPO), or drawn at random for each iteration."""

    window_stride: int = field(default=4, metadata=at_least(1))
    """Iterations after which a sliding window moves by one denoise step. MixGRPO: 25."""

    shared_initial_noise: bool = True
    """All images of a group start from the same noise, as in DanceGRPO, and differ only by their noisy steps."""

    batch: int = field(default=0, metadata=at_least(0))
    """Images of one sampling call, in one forward pass. Must divide policy.group_size. 0: the whole group."""

    @property
    def max_noise_steps(self) -> int:
        """Number of denoise steps that can draw noise. CPS never draws noise at its last step."""
        return self.denoise_steps - max(self.clean_steps, int(self.transition == "cps"))

    def __post_init__(self) -> None:
        super().__post_init__()
        noisy = self.max_noise_steps
        if noisy < 1:
            raise SettingsError(
                "policy.sampling.clean_steps must leave a denoise step that draws noise, got "
                f"{self.clean_steps} of {self.denoise_steps} denoise steps: lower clean_steps or raise denoise_steps"
            )
        if not self.window and self.train_steps > noisy:
            raise SettingsError(
                f"policy.sampling.train_steps must lie between 0 and the {noisy} noisy steps, got {self.train_steps}"
            )
        if self.window > noisy:
            raise SettingsError(
                f"policy.sampling.window must lie between 0 and the {noisy} noisy steps, got {self.window}; "
                "0: no window"
            )
        if self.transition == "cps" and self.noise_level > 1:
            raise SettingsError(
                "policy.sampling.noise_level must be at most 1 with policy.sampling.transition=cps, got "
                f"{self.noise_level}"
            )

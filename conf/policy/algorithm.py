"""`policy.algorithm`: top-k selection, advantages, and the terms of the loss."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from conf.errors import SettingsError
from conf.rules import Section, above, at_least


@dataclass(frozen=True)
class AlgorithmSettings(Section):
    """Top-k GRPO. Axis: G images of a group."""

    section: ClassVar[str] = "policy.algorithm"

    objective: Literal["grpo", "nft"] = "grpo"
    """grpo: the paper's clipped ratios of trajectories. nft: DiffusionNFT's contrast of final images (policy.nft); its
    sampler draws no noise, so of policy.sampling it uses denoise_steps and batch only."""

    top_k: int = field(default=6, metadata=at_least(0))
    """Train on the best k and the worst k images of a group. 0: on the whole group. Paper: 6."""

    advantage_mean_over: Literal["selected", "group"] = "selected"
    """The mean subtracted from the scores (and a group's std) is that of the selected 2k images or the whole group."""

    advantage_std_over: Literal["group", "batch"] = "batch"
    """Divide by the std of each group (paper, Eq. 5), or by one std over all groups of an optimizer step."""

    clip_range: float = field(default=1e-4, metadata=above(0))
    """PPO clip range of the ratio of mean log-probabilities. Paper: 1e-4."""

    ratio_norm: Literal["none", "grpo_guard"] = "none"
    """GRPO-Guard normalizes the log-ratio over the denoise steps. It needs a smaller clip_range, e.g. 2e-6."""

    ratio_tolerance: float = field(default=2e-5, metadata=at_least(0))
    """On-policy gate: largest |ratio - 1| that is accepted before the first optimizer step. It holds for
    old_log_probs=sampler."""

    old_log_probs: Literal["sampler", "learner"] = "sampler"
    """Old log-probabilities of the ratio: as the sampler recorded them, or computed again by the learner. With the
    second, the ratio of unchanged weights is exactly 1, whatever kernels both use."""

    kl_weight: float = field(default=0.0, metadata=at_least(0))
    """Weight of the KL term to the base model. Paper: 0.01."""

    kl_form: Literal["flow_grpo", "gaussian", "velocity"] = "flow_grpo"
    """Form of the KL term; see docs/mathematics.md. The paper does not name its form."""

    kl_reference: Literal["base", "start"] = "base"
    """What the KL term and the base regularizer are towards: the base, or the LoRA of policy.start_from."""

    base_regularizer_weight: float = field(default=0.03, metadata=at_least(0))
    """Weight of mean (v - v_base)^2 at the last denoise steps, which are never trained. 0: off, as in the paper."""

    base_regularizer_samples: int = field(default=2, metadata=at_least(1))
    """Selected images of a group on which the base regularizer is evaluated."""

    combine_rewards: Literal["sum", "z_scores"] = "sum"
    """Add the rewards, times their weights, as they are, or each as its z-scores within the group."""

    max_resamples: int = field(default=2, metadata=at_least(0))
    """How often a group with equal scores, or fewer than two finite ones, is replaced by one of another prompt."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.objective == "nft":
            self._check_nft()
        elif self.advantage_std_over == "batch" and self.kl_weight:
            raise SettingsError(
                "policy.algorithm.advantage_std_over=batch cannot be combined with policy.algorithm.kl_weight="
                f"{self.kl_weight}, because the batch's std scales the KL term too: set "
                "policy.algorithm.advantage_std_over=group, or policy.algorithm.kl_weight=0"
            )

    def _check_nft(self) -> None:
        """Raises SettingsError for a setting that only the objective grpo has."""
        if self.kl_weight and self.kl_form != "velocity":
            raise SettingsError(
                "policy.algorithm.objective=nft has no transitions, so its KL term compares velocities, got "
                f"policy.algorithm.kl_form={self.kl_form}: set policy.algorithm.kl_form=velocity, or "
                "policy.algorithm.kl_weight=0"
            )
        for name, value, default in (
            ("ratio_norm", self.ratio_norm, "none"),
            ("old_log_probs", self.old_log_probs, "sampler"),
        ):
            if value != default:
                raise SettingsError(
                    f"policy.algorithm.{name}={value} concerns the ratios of objective grpo, and nft has none: set "
                    f"policy.algorithm.{name}={default}"
                )

"""`policy.nft`: DiffusionNFT's objective, with policy.algorithm.objective=nft."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from conf.rules import Section, above, at_least, between


@dataclass(frozen=True)
class NftSettings(Section):
    """DiffusionNFT (arXiv 2509.16117): learns from final images with fresh noise, not from trajectories."""

    section: ClassVar[str] = "policy.nft"

    beta: float = field(default=0.2, metadata=above(0))
    """The implicit policies are v_old ± beta (v - v_old), where v_old is the sampling policy's velocity."""

    advantage_range: float = field(default=5.0, metadata=above(0))
    """Advantages are clipped to ± this. An image at its end is wholly a positive or a negative one."""

    noise_levels: int = field(default=3, metadata=at_least(1))
    """Noise levels at which a selected image is trained in an optimizer step."""

    sampling_decay: float = field(default=0.5, metadata=between(0, 1))
    """Share of the sampling policy that an iteration keeps; the rest comes from the policy in training."""

    sampling_tolerance: float = field(default=1e-3, metadata=at_least(0))
    """Largest relative difference between an image's latents and those that the learner samples with its seed. It is
    checked once after a learner starts."""

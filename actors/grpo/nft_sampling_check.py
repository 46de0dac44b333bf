"""What replaces the on-policy gate with the objective nft: the learner samples one image again.

The loss has no ratio that must be 1, so a sampler with another model, dtype or LoRA would go unnoticed. But its images
would not be those of v_old, around which the implicit policies are built.
"""

from __future__ import annotations

from actors.grpo.gate import OffPolicyError
from actors.policy.base import Policy
from actors.policy.plan import SamplingPlan
from actors.policy.sampler import sample
from actors.types import Conditioning, Trajectory
from conf.policy import PolicySettings


class SamplingCheck:
    """Compares the final latents of one image with those that the learner's own policy makes from the same seed."""

    def __init__(self, policy: Policy, settings: PolicySettings) -> None:
        self._policy, self._settings = policy, settings
        # With ZeRO stage 3 a forward pass is a collective, and only the rank of this image would make it.
        self._passed = settings.learner.zero_stage == 3

    def check_once(self, conditioning: Conditioning, end: Trajectory) -> None:
        """Samples `end` again, unless an image was compared before. The policy must have the weights that sample.

        Its forward passes have the sampler's batch shape, because another shape rounds differently. Raises
        OffPolicyError if the latents differ by more than `policy.nft.sampling_tolerance` of their size.
        """
        if self._passed:
            return
        rows, plan = end.batch_size, SamplingPlan.for_training(self._settings)
        again = sample(self._policy, [conditioning] * rows, [end.seed] * rows, plan).latents[0]
        sampled = end.latents[-1]
        difference = float((again - sampled).norm() / sampled.norm())
        tolerance = self._settings.nft.sampling_tolerance
        if not difference <= tolerance:
            raise OffPolicyError(
                "the learner must sample the same latents as the sampler from the same seed, up to "
                f"policy.nft.sampling_tolerance={tolerance}, but they differ by {difference:.3g} of their size: use "
                "the same model, dtype and flux.* settings for both, or raise the tolerance if only rounding differs"
            )
        self._passed = True

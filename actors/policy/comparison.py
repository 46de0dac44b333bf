"""One image by the frozen base and one by the policy, from the same noise: what a person compares."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from actors.policy.base import Policy
from actors.policy.plan import SamplingPlan
from actors.policy.sampler import sample_before_and_after
from actors.reward_input import InputError


@dataclass(frozen=True)
class Comparison:
    """Two images of one prompt and one seed, uint8 [H, W, 3]."""

    base: np.ndarray
    tuned: np.ndarray


class ComparisonSampler:
    """A plain class around one policy whose LoRA is loaded. One call at a time samples; the others wait."""

    def __init__(self, policy: Policy, plan: SamplingPlan) -> None:
        """`plan` draws no noise, so an image is what the plain pipeline makes of `torch.Generator().manual_seed`."""
        self.policy, self.plan = policy, plan
        self.steps = 2 * plan.denoise_steps
        self._one_at_a_time = threading.Lock()  # the LoRA is switched off and on

    def check(self, text: str) -> None:
        """Raises InputError if the text has more tokens than the policy reads: the rest would be cut off."""
        count, limit = self.policy.count_tokens(self.policy.pipeline, text), self.policy.settings.max_sequence_length
        if count > limit:
            raise InputError(
                f"this model reads {limit} tokens, which are words or parts of words, and this prompt has {count}: "
                "shorten it"
            )

    def sample(self, text: str, seed: int, after_step: Callable[[], None]) -> Comparison:
        """Samples both images. `after_step` is called `steps` times; what it raises ends the call.

        Raises InputError as `check` does.
        """
        self.check(text)
        with self._one_at_a_time:
            both = sample_before_and_after(self.policy, self.policy.encode([text]), [seed], self.plan, after_step)
        return Comparison(*(images[0] for images in both))

"""Extension `policy.algorithm.old_log_probs=learner`: the learner computes the old log-probabilities itself.

The ratio of the unchanged policy is then exactly 1, also where kernels for sampling and for training round differently.
At the first optimizer step of an iteration the old log-probabilities are the new ones. At the later ones, each batch is
replayed under a kept copy of the policy version's LoRA: one more forward pass, with the kernels of training.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace

import torch

from actors.grpo.replay import ReplayBatch
from actors.policy.base import Policy
from actors.policy.transition import GaussianStep, Transition


class OldWeights:
    """A copy of the LoRA of the policy version that is learned from."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._lora: dict[str, torch.Tensor] = {}

    def keep(self) -> None:
        """Copies the LoRA. Call it before the first optimizer step of an iteration."""
        self._lora = self._copy()

    @contextmanager
    def loaded(self) -> Generator[None]:
        """Context in which the policy has the weights that were kept."""
        current = self._copy()
        self._policy.load_lora(self._lora)
        try:
            yield
        finally:
            self._policy.load_lora(current)

    def _copy(self) -> dict[str, torch.Tensor]:
        return {key: value.clone() for key, value in self._policy.lora_state().items()}


def with_old_policy(batch: ReplayBatch, old: GaussianStep, transition: Transition) -> ReplayBatch:
    """The batch with the old policy's log-probabilities and means as `old` predicts them, not as they were sampled."""
    mean = None if batch.mean is None else old.mean.detach()
    return replace(batch, log_prob=transition.log_prob(batch.x_next, old).detach(), mean=mean)

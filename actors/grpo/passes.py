"""When the learner makes its forward and backward passes: at once, or all ranks together.

With ZeRO stage 3 the frozen base is sharded over the ranks (actors/optim/fsdp.py). Each pass then gathers weights. This
is a collective: all ranks must make the same number of passes, in the same order. But ranks have different numbers of
rows, and receive them at different times. Therefore `DeferredPasses` waits for the optimizer step, and adds dummy
passes on the ranks that have fewer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

import torch

from actors.optim.fsdp import max_over_ranks
from actors.policy.base import Policy
from actors.types import Conditioning
from conf.policy import PolicySettings

Pass = Callable[[], None]
"""One forward pass, others without a gradient (of the base, or of the weights that sample), and one backward pass."""


class Passes(Protocol):
    """How the learner makes its passes."""

    def add(self, passes: Iterable[Pass], conditioning: Conditioning) -> None:
        """The passes of one group, and the group's conditioning."""
        ...

    def finish(self, frozen_forwards: int) -> None:
        """Returns when all passes are made. Each has `frozen_forwards` forward passes without a gradient."""
        ...

    def clear(self) -> None:
        """Forgets passes that were not made."""
        ...


class ImmediatePasses:
    """Makes each pass when it is added. Every rank has the whole base."""

    def add(self, passes: Iterable[Pass], conditioning: Conditioning) -> None:
        """See Passes."""
        for run in passes:
            run()

    def finish(self, frozen_forwards: int) -> None:
        """See Passes: nothing is left to do."""

    def clear(self) -> None:
        """See Passes: nothing is kept."""


def passes_of(policy: Policy, settings: PolicySettings) -> Passes:
    """How a learner with these settings makes its passes."""
    return DeferredPasses(policy) if settings.learner.zero_stage == 3 else ImmediatePasses()


class DeferredPasses:
    """Makes all passes in `finish`, and equally many on every rank."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self._passes: list[Pass] = []
        self._conditioning: Conditioning | None = None  # any conditioning, for dummy passes

    def add(self, passes: Iterable[Pass], conditioning: Conditioning) -> None:
        """See Passes."""
        self._passes += passes
        self._conditioning = conditioning

    def finish(self, frozen_forwards: int) -> None:
        """See Passes. A collective: every rank must call it."""
        count = max_over_ranks(len(self._passes), self.policy.device)
        for run in self._passes:
            run()
        for _ in range(count - len(self._passes)):
            self._dummy_pass(frozen_forwards)
        self.clear()

    def clear(self) -> None:
        """See Passes."""
        self._passes = []

    def _dummy_pass(self, frozen_forwards: int) -> None:
        """As many forward passes as a pass has, and its backward pass, for a gradient of 0."""
        assert self._conditioning is not None, "every rank has a group in every optimizer step"
        policy = self.policy
        rows = policy.batch_conditioning([self._conditioning])
        x = torch.zeros(1, policy.image_tokens, policy.channels, device=policy.device)
        s = torch.ones(1, device=policy.device)
        velocity = policy.velocity(x, s, rows)
        for _ in range(frozen_forwards):
            with torch.no_grad():
                policy.velocity(x, s, rows)
        (velocity.sum() * 0.0).backward()

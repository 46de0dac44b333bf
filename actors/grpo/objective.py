"""`policy.algorithm.objective`: which learner a run has. Learner, in base_learner.py, is their common interface."""

from __future__ import annotations

from actors.grpo.base_learner import Learner
from actors.grpo.learner import GrpoLearner
from actors.grpo.nft_learner import NftLearner
from actors.optim.torch_engine import Engine
from actors.policy.base import Policy
from conf.policy import PolicySettings


def learner_of(policy: Policy, engine: Engine, settings: PolicySettings) -> Learner:
    """One rank of the learner of the run's objective."""
    match settings.algorithm.objective:
        case "grpo":
            return GrpoLearner(policy, engine, settings)
        case "nft":
            return NftLearner(policy, engine, settings)

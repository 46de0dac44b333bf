"""The learner of the objective nft: trains on final latents with fresh noise, and samples with a slow average.

Three weights: those in training, those that sample (v_old: a decayed average of the first, published as the policy
version), and the moving average of the published ones, which is evaluated. Axes as in actors/grpo/nft_rows.py.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch

from actors.grpo.advantages import Advantages
from actors.grpo.base_learner import Learner, check_samples
from actors.grpo.batch_std import STD_EPSILON
from actors.grpo.loss import velocity_distance
from actors.grpo.lr_schedule import learning_rate
from actors.grpo.metrics import OptimizerStepMetrics
from actors.grpo.nft_loss import nft_loss
from actors.grpo.nft_rows import SCHEDULE_POINTS, NoisedRows, noised_rows
from actors.grpo.nft_sampling_check import SamplingCheck
from actors.grpo.passes import passes_of
from actors.grpo.shares import WHOLE, GroupPart
from actors.optim.torch_engine import Engine
from actors.policy.base import Policy
from actors.types import Conditioning, Trajectory
from conf.policy import PolicySettings


class NftLearner(Learner):
    """The learner of DiffusionNFT's objective (arXiv 2509.16117); see Learner for the order of calls."""

    def __init__(self, policy: Policy, engine: Engine, settings: PolicySettings) -> None:
        super().__init__(policy, engine, settings)
        self._old = [parameter.detach().clone() for parameter in policy.trainable().values()]
        self._schedule = policy.sigmas(SCHEDULE_POINTS)[:-1]
        self._score_std = 0.0  # of the optimizer step before, with advantage_std_over=batch; 0: there was none
        self._check = SamplingCheck(policy, settings)
        self._passes = passes_of(policy, settings)
        self._sums = torch.zeros(2, device=policy.device)  # loss, KL
        self._rows = self._clipped = self._samples = 0

    def accumulate(
        self,
        advantages: Advantages,
        conditioning: Conditioning,
        trajectories: Sequence[Trajectory],
        part: GroupPart = WHOLE,
    ) -> None:
        """See Learner: a group's gradient is the mean over its kept images and their noise levels.

        Raises OffPolicyError if the sampler does not have the weights that it should; see SamplingCheck.
        """
        check_samples(advantages, trajectories)
        conditioning = conditioning.to(self.policy.device)
        if trajectories and trajectories[0].policy_version == self.version:
            with self.sampling():
                self._check.check_once(conditioning, trajectories[0])
        nft, rows = self.settings.nft, self.settings.learner.replay_batch
        values = self._standardized(advantages)
        batches = list(noised_rows(trajectories, values, self._schedule, nft.noise_levels, rows))
        share = 1 / (max(len(trajectories), 1) * nft.noise_levels * self.local_groups_per_step)
        self._passes.add(
            (partial(self._learn, batch, conditioning, share) for batch in part.cut(batches)), conditioning
        )
        if part.is_first:
            self._samples += len(trajectories)

    def _standardized(self, advantages: Advantages) -> list[float]:
        """With advantage_std_over=batch, the values are centred scores: divides them by the std of the batch before.

        The loss is not proportional to the advantages, so the std of this batch, which is known only after its last
        group, comes too late. The first batch has none before it: there, each group has its own std.
        """
        if self.settings.algorithm.advantage_std_over == "group":
            return list(advantages.values)
        std = self._score_std or advantages.std + STD_EPSILON
        return [value / std for value in advantages.values]

    def _learn(self, batch: NoisedRows, conditioning: Conditioning, share: float) -> None:
        """Adds the gradient of one batch of rows, each of which weighs `share`."""
        nft, kl_weight = self.settings.nft, self.settings.algorithm.kl_weight
        self._clipped += int((batch.advantage.abs() > nft.advantage_range).sum())
        batch = batch.to(self.policy.device)
        rows = self.policy.batch_conditioning([conditioning] * len(batch.s))
        with torch.no_grad(), self.sampling():
            old = self.policy.velocity(batch.x, batch.s, rows)
        velocity = self.policy.velocity(batch.x, batch.s, rows)
        loss = nft_loss(velocity, old, batch.target, batch.s, batch.advantage, nft.beta, nft.advantage_range)
        kl = torch.zeros_like(loss)
        if kl_weight > 0:
            with torch.no_grad(), self.policy.reference():
                base = self.policy.velocity(batch.x, batch.s, rows)
            kl = velocity_distance(velocity, base)
            loss = loss + kl_weight * kl
        (loss.sum() * share).backward()
        self._sums += torch.stack((loss.detach().sum(), kl.detach().sum()))
        self._rows += len(loss)

    def optimizer_step(self, score_std: float = 1.0) -> OptimizerStepMetrics:
        """See Learner. `score_std` divides the advantages of the next optimizer step."""
        self._passes.finish(frozen_forwards=1 + (self.settings.algorithm.kl_weight > 0))
        lr = learning_rate(self.settings.optimizer, self.version, self.settings.iterations)
        result = self.engine.step(lr)
        self.optimizer_steps += result.applied
        if score_std > STD_EPSILON:  # otherwise all groups were skipped
            self._score_std = score_std
        loss, kl = (self._sums / max(self._rows, 1)).tolist()
        metrics = OptimizerStepMetrics(
            loss=loss,
            kl=kl,
            base_distance=0.0,
            ratio_mean=math.nan,
            ratio_drift=math.nan,
            clip_fraction=self._clipped / max(self._rows, 1),
            grad_norm=result.grad_norm,
            lr=lr,
            rows=self._rows,
            regularizer_rows=0,
            samples=self._samples,
            applied=result.applied,
        )
        self.forget_step()
        return metrics

    def forget_step(self) -> None:
        """See Learner."""
        self._passes.clear()
        self._sums.zero_()
        self._rows = self._clipped = self._samples = 0

    @torch.no_grad()
    def end_iteration(self) -> int:
        """See Learner: the weights that sample become `sampling_decay` old + (1 - `sampling_decay`) trained."""
        for old, parameter in zip(self._old, self.policy.trainable().values(), strict=True):
            old.lerp_(parameter, 1 - self.settings.nft.sampling_decay)
        return super().end_iteration()

    def published_lora(self) -> dict[str, torch.Tensor]:
        """See Learner: the decayed average, not the weights in training."""
        return dict(zip(self.policy.lora_state(), self._old, strict=True))

    @contextmanager
    def sampling(self) -> Generator[None]:
        """See Learner: the decayed average."""
        with self.policy.exchanged(self._old):
            yield

    def state_dict(self) -> dict[str, Any]:
        """See Learner."""
        old = {key: value.cpu().clone() for key, value in self.published_lora().items()}
        return super().state_dict() | {"sampling_lora": old, "score_std": self._score_std}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See Learner."""
        super().load_state_dict(state)
        self._old = [value.to(self.policy.device).clone() for value in state["sampling_lora"].values()]
        self._score_std = state["score_std"]

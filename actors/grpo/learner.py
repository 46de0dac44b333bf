"""The learner: replays kept trajectories, accumulates the GRPO gradient, steps, and counts policy versions.

Axes: N kept samples of a group, K trained denoise steps, R rows = (sample, denoise step) pairs of one forward pass.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from actors.grpo.advantages import Advantages
from actors.grpo.base_learner import Learner, check_samples
from actors.grpo.base_regularizer import BaseRegularizer
from actors.grpo.batch_std import divide_gradients
from actors.grpo.gate import OffPolicyError, OnPolicyGate
from actors.grpo.loss import Prediction, clipped_ratio_loss, divergence_of
from actors.grpo.lr_schedule import learning_rate
from actors.grpo.metrics import OptimizerStepMetrics, StepTotals
from actors.grpo.old_log_probs import OldWeights, with_old_policy
from actors.grpo.passes import passes_of
from actors.grpo.ratio_norm import guarded_ratio_loss
from actors.grpo.replay import ReplayBatch, replay_batches
from actors.grpo.shared_noise import shared_replay_batches
from actors.grpo.shares import WHOLE, GroupPart
from actors.optim.torch_engine import Engine
from actors.policy.base import Policy
from actors.policy.transition import transition_of
from actors.types import Conditioning, Trajectory
from conf.policy import PolicySettings

__all__ = ["GrpoLearner", "OffPolicyError", "OptimizerStepMetrics"]


class GrpoLearner(Learner):
    """The learner of top-k GRPO; see Learner for the order of calls."""

    def __init__(self, policy: Policy, engine: Engine, settings: PolicySettings) -> None:
        super().__init__(policy, engine, settings)
        self._transition = transition_of(settings.sampling.transition)
        recomputes = settings.algorithm.old_log_probs == "learner"
        self._old_weights = OldWeights(policy) if recomputes else None
        tolerance = math.inf if recomputes else settings.algorithm.ratio_tolerance
        self.gate = OnPolicyGate(tolerance, settings.sampling.denoise_steps, policy.device)
        self._gate_rows: tuple[ReplayBatch, Conditioning] | None = None  # on which the gate's noise floor is measured
        self._divergence = divergence_of(settings.algorithm.kl_form)
        self._replay_batches = shared_replay_batches if settings.sampling.shared_initial_noise else replay_batches
        self._passes = passes_of(policy, settings)
        self._regularizer = (
            BaseRegularizer(policy, settings, self.local_groups_per_step)
            if settings.algorithm.base_regularizer_weight > 0
            else None
        )
        self._weights_unchanged = True  # the weights are those of `version`: no optimizer step was applied since
        self._totals = StepTotals(policy.device)

    def accumulate(
        self,
        advantages: Advantages,
        conditioning: Conditioning,
        trajectories: Sequence[Trajectory],
        part: GroupPart = WHOLE,
    ) -> None:
        """See Learner: a group's gradient is the mean over its kept samples and trained denoise steps."""
        check_samples(advantages, trajectories)
        conditioning = conditioning.to(self.policy.device)  # once, and not for each of the group's forward passes
        on_policy = self._weights_unchanged and all(row.policy_version == self.version for row in trajectories)
        batches = list(self._replay_batches(trajectories, advantages.values, self.settings.learner.replay_batch))
        passes = (partial(self._replay, batch, conditioning, on_policy) for batch in part.cut(batches))
        self._passes.add(passes, conditioning)
        if part.is_first:
            if self._regularizer:
                self._regularizer.add_group(trajectories, conditioning)
            self._totals.samples += len(trajectories)

    def _replay(self, batch: ReplayBatch, conditioning: Conditioning, on_policy: bool) -> None:
        """Adds the gradient of one batch: the clipped ratio of each row, plus the KL term."""
        algorithm = self.settings.algorithm
        batch = batch.to(self.policy.device)
        sampled = batch
        if self._old_weights and not self._weights_unchanged:
            with self._old_weights.loaded():  # and with autograd: without it, kernels that round differently may run
                batch = with_old_policy(batch, self._predict(batch, conditioning).gaussian, self._transition)
        new = self._predict(batch, conditioning)
        if self._old_weights and self._weights_unchanged:
            batch = with_old_policy(batch, new.gaussian, self._transition)
        log_prob = self._transition.log_prob(batch.x_next, new.gaussian)  # [R]
        log_ratio = log_prob - batch.log_prob  # [R]
        if algorithm.ratio_norm == "grpo_guard":
            terms = guarded_ratio_loss(log_ratio, batch, new.gaussian, algorithm.clip_range)
        else:
            terms = clipped_ratio_loss(log_ratio, batch.advantage, algorithm.clip_range)
        loss, kl = terms.loss, torch.zeros_like(terms.loss)
        if algorithm.kl_weight > 0:
            with torch.no_grad(), self.policy.reference():
                base = self._predict(batch, conditioning)
            kl = self._divergence(new, base)
            loss = loss + algorithm.kl_weight * kl
        ((loss * batch.weight).sum() / self.local_groups_per_step).backward()
        self._totals.add(loss.detach(), kl.detach(), terms)
        if on_policy:
            ratio = torch.exp(log_prob.detach() - sampled.log_prob) if self._old_weights else terms.ratio
            self.gate.record(ratio, batch.denoise_step)
            self._gate_rows = self._gate_rows or (sampled, conditioning)

    @torch.no_grad()
    def _noise_floor(self) -> float:
        """The largest |ratio - 1| of rows that are replayed twice, the second time in a forward pass of twice the size.

        NaN with a sharded base, because its forward passes are made by all ranks together.
        """
        if not self._gate_rows or self.settings.learner.zero_stage == 3:
            return math.nan
        batch, conditioning = self._gate_rows
        larger = replace(batch, padding=batch.padding + batch.forward_rows)
        first, second = (
            self._transition.log_prob(batch.x_next, self._predict(rows, conditioning).gaussian)
            for rows in (batch, larger)
        )
        return float((torch.exp(first - second) - 1).abs().max())

    def _predict(self, batch: ReplayBatch, conditioning: Conditioning) -> Prediction:
        """The velocity at the rows of a batch, and the Gaussian of their next latents."""
        velocity = batch.velocity(self.policy, conditioning)  # [R, S, C]
        noise_level = self.settings.sampling.noise_level
        return Prediction(velocity, self._transition.step(batch.x, velocity, batch.s, batch.s_next, noise_level))

    def optimizer_step(self, score_std: float = 1.0) -> OptimizerStepMetrics:
        """See Learner: divides the gradient by `score_std` (see actors/grpo/batch_std.py).

        Raises OffPolicyError if this is the first optimizer step, and the samples of the unchanged weights do not have
        the ratio 1 within `policy.algorithm.ratio_tolerance`.
        """
        self._passes.finish(frozen_forwards=int(self.settings.algorithm.kl_weight > 0))
        drift = self.gate.check(self._noise_floor)
        self._gate_rows = None
        if self._old_weights and self._weights_unchanged:
            self._old_weights.keep()
        divide_gradients(self.engine.parameters, score_std)
        if self._regularizer:
            self._regularizer.backward(self._passes)
        lr = learning_rate(self.settings.optimizer, self.version, self.settings.iterations)
        result = self.engine.step(lr)
        self.optimizer_steps += result.applied
        self._weights_unchanged = self._weights_unchanged and not result.applied
        loss, kl, ratio_mean, clip_fraction = self._totals.means()
        metrics = OptimizerStepMetrics(
            loss=loss / score_std,
            kl=kl,
            base_distance=self._regularizer.distance if self._regularizer else 0.0,
            ratio_mean=ratio_mean,
            ratio_drift=drift,
            clip_fraction=clip_fraction,
            grad_norm=result.grad_norm,
            lr=lr,
            rows=self._totals.rows,
            regularizer_rows=self._regularizer.rows if self._regularizer else 0,
            samples=self._totals.samples,
            applied=result.applied,
        )
        self.forget_step()
        return metrics

    def forget_step(self) -> None:
        """See Learner."""
        self._totals = StepTotals(self.policy.device)
        self.gate.reset()
        self._passes.clear()
        if self._regularizer:
            self._regularizer.reset()

    def end_iteration(self) -> int:
        """See Learner."""
        self._weights_unchanged = True
        return super().end_iteration()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See Learner."""
        super().load_state_dict(state)
        self._weights_unchanged = True

"""The learner: replays kept trajectories, accumulates the GRPO gradient, steps, and keeps the policy's versions.

Axes: N kept samples of a group, K trained steps, R rows = (sample, step) pairs of one forward.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from actors.grpo.advantages import Advantages
from actors.grpo.base_regularizer import RegularizerRow, regularizer_rows
from actors.grpo.loss import Prediction, clipped_ratio_loss, divergence_of, ratio_norm, velocity_distance
from actors.grpo.replay import ReplayBatch, replay_batches
from actors.optim.fsdp import most_of_ranks
from actors.optim.torch_engine import Engine
from actors.policy.base import Policy
from actors.policy.plan import first_untrained_step
from actors.policy.transition import transition_of
from actors.types import Conditioning, PolicyWeights, Trajectory
from conf.policy import PolicySettings


class OffPolicyError(RuntimeError):
    """Before the first update the learner did not reproduce the sampler's log-probs."""


@dataclass(frozen=True)
class OptimizerStepMetrics:
    """One optimizer update, on this rank. Means are over the rows replayed for it."""

    loss: float
    kl: float
    base_distance: float  # mean (v - v_base)^2 at the steps that are never trained; 0 without `policy.algorithm.base_regularizer_weight`
    ratio_mean: float
    ratio_drift: float  # max |ratio - 1| over rows sampled by the very weights that replay them; NaN without any
    clip_fraction: float
    grad_norm: float
    lr: float
    rows: int
    regularizer_rows: int  # rows of the base regularizer, over which base_distance is a mean
    samples: int
    applied: bool  # False: the gradient was not finite, or there was none, and nothing changed


class GrpoLearner:
    """One rank of the learner, a plain class. Call order: accumulate*, step, …, advance.

    Under `policy.learner.zero_stage=3` the policy's base is sharded (actors/optim/fsdp.py), so passes are collectives: `step`
    makes them all, and equally many on every rank.
    """

    def __init__(self, policy: Policy, engine: Engine, settings: PolicySettings) -> None:
        self.policy, self.engine, self.settings = policy, engine, settings
        self.version = 0
        self.optimizer_steps = 0  # optimizer steps that were applied
        self.ema = {key: value.clone() for key, value in policy.lora_state().items()}
        self._gate_passed = False
        self._no_step_yet = True  # no update yet since the last `advance`
        self._clear()

    def _clear(self) -> None:
        # columns: loss, kl, ratio, clipped; kept on the device, so that accumulating never waits for it
        self._sums = torch.zeros(4, device=self.policy.device)
        self._drift = torch.zeros(self.settings.sampling.denoise_steps, device=self.policy.device)  # [T]
        self._rows, self._samples, self._on_policy_rows = 0, 0, 0
        self._deferred_passes: list[Callable[[], None]] = []  # passes that `step` is to make
        self._regularizer_rows: list[RegularizerRow] = []
        self._base_distance_sum = torch.zeros((), device=self.policy.device)
        self._conditioning: Conditioning | None = None  # any, for a pass that only keeps step

    def accumulate(
        self, advantages: Advantages, conditioning: Conditioning, trajectories: Sequence[Trajectory]
    ) -> None:
        """Adds one group's gradient: the mean over its kept samples and trained steps.

        `trajectories` are those of `advantages.kept`, in that order. A skipped group adds nothing, but still counts in
        the mean over the groups of the update, so it makes the step smaller, not the others louder.
        """
        if len(trajectories) != len(advantages.kept):
            raise ValueError(f"one trajectory a kept sample, got {len(trajectories)} and {len(advantages.kept)}")
        on_policy = self._no_step_yet and all(row.policy_version == self.version for row in trajectories)
        for rows in replay_batches(trajectories, advantages.values, self.settings.learner.replay_batch):
            replay = partial(self._replay, rows, conditioning, on_policy)
            if self.settings.learner.zero_stage == 3:
                self._deferred_passes.append(replay)
            else:
                replay()
        if self.settings.algorithm.base_regularizer_weight > 0:
            tail, samples = first_untrained_step(self.settings), self.settings.algorithm.base_regularizer_samples
            self._regularizer_rows += regularizer_rows(trajectories, conditioning, tail, samples)
        self._conditioning = conditioning
        count = sum(len(row.train_steps) for row in trajectories)
        self._samples += len(trajectories)
        self._rows += count
        self._on_policy_rows += count if on_policy else 0

    def _run_passes(self, passes: Sequence[Callable[[], None]], with_base: bool) -> None:
        """Makes the passes; beside a sharded base idle ones, too: no rank may leave the others alone in a gather."""
        sharded = self.settings.learner.zero_stage == 3
        most = most_of_ranks(len(passes), self.policy.device) if sharded else len(passes)
        for one in passes:
            one()
        for _ in range(most - len(passes)):
            self._dummy_pass(with_base)

    def _dummy_pass(self, with_base: bool) -> None:
        """The forwards and the backward of a pass, in its order, for a gradient of 0."""
        assert self._conditioning is not None, "every rank has a group in every update"
        rows = self.policy.batch_conditioning([self._conditioning])
        x = torch.zeros(1, self.policy.image_tokens, self.policy.channels, device=self.policy.device)
        s = torch.ones(1, device=self.policy.device)
        velocity = self.policy.velocity(x, s, rows)
        if with_base:
            with torch.no_grad(), self.policy.base():
                self.policy.velocity(x, s, rows)
        (velocity.sum() * 0.0).backward()

    @property
    def _groups(self) -> float:
        """This rank's groups in an update."""
        return self.settings.prompts_per_iteration / self.settings.optimizer.steps_per_iteration / self.engine.ranks

    def _replay(self, rows: ReplayBatch, conditioning: Conditioning, on_policy: bool) -> None:
        rows = rows.to(self.policy.device)
        new = self._predict(rows, conditioning)
        log_ratio = transition_of(self.settings.sampling.transition)[1](rows.x_next, new.gaussian) - rows.log_prob
        guard = self.settings.algorithm.ratio_norm == "grpo_guard"
        if guard:
            log_ratio = ratio_norm(log_ratio, new.gaussian.mean, rows.mean, new.gaussian.std)
        terms = clipped_ratio_loss(log_ratio, rows.advantage, self.settings.algorithm.clip_range)
        loss, kl = terms.loss / (rows.repeat_rows(rows.s) - rows.s_next if guard else 1.0), torch.zeros_like(terms.loss)
        if self.settings.algorithm.kl_weight > 0:
            with torch.no_grad(), self.policy.base():
                reference = self._predict(rows, conditioning)
            kl = divergence_of(self.settings.algorithm.kl_form)(new, reference)
            loss = loss + self.settings.algorithm.kl_weight * kl
        ((loss * rows.weight).sum() / self._groups).backward()
        with torch.no_grad():
            columns = torch.stack((loss, kl, terms.ratio, terms.clipped.float()))  # [4, R]
            self._sums += columns.sum(dim=1)
            if on_policy:
                self._drift.scatter_reduce_(0, rows.denoise_step, (terms.ratio - 1).abs(), "amax")

    def _regularize_to_base(self) -> None:
        """Makes the update's anchor passes, in forwards of the replay's size."""
        size = self.settings.learner.replay_batch or self.settings.sampling.batch or self.settings.group_size
        chunks = [self._regularizer_rows[first : first + size] for first in range(0, len(self._regularizer_rows), size)]
        self._run_passes([partial(self._regularizer_pass, chunk) for chunk in chunks], with_base=True)

    def _regularizer_pass(self, rows: Sequence[RegularizerRow]) -> None:
        """Adds the gradient of weight * mean (v - v_base)^2 over some of the update's anchor rows."""
        device = self.policy.device
        x, s = torch.stack([row.x for row in rows]).to(device), torch.stack([row.s for row in rows]).to(device)
        stacked = self.policy.batch_conditioning([row.conditioning for row in rows])
        velocity = self.policy.velocity(x, s, stacked)
        with torch.no_grad(), self.policy.base():
            base = self.policy.velocity(x, s, stacked)
        distance = velocity_distance(velocity, base)
        share = torch.tensor([row.weight for row in rows], device=device) / self._groups
        (self.settings.algorithm.base_regularizer_weight * distance * share).sum().backward()
        self._base_distance_sum += distance.detach().sum()

    def _predict(self, rows: ReplayBatch, conditioning: Conditioning) -> Prediction:
        transition = transition_of(self.settings.sampling.transition)[0]
        velocity = self.policy.velocity(rows.x, rows.s, self.policy.batch_conditioning([conditioning] * len(rows.s)))
        x, s, velocity = rows.repeat_rows(rows.x), rows.repeat_rows(rows.s), rows.repeat_rows(velocity)
        return Prediction(velocity, transition(x, velocity, s, rows.s_next, self.settings.sampling.noise_level))

    def optimizer_step(self, grad_divisor: float = 1.0) -> OptimizerStepMetrics:
        """One optimizer update from what was accumulated, divided by `grad_divisor`.

        Without a KL term the loss is proportional to the advantages, so what all of them are divided by may come last.
        Raises OffPolicyError, naming the step, if this is the first update and trajectories of these very weights do
        not replay to ratio 1 within `policy.algorithm.ratio_tolerance`.
        """
        self._run_passes(self._deferred_passes, with_base=self.settings.algorithm.kl_weight > 0)
        drift = float(self._drift.max()) if self._on_policy_rows else math.nan
        if not self._gate_passed and self._on_policy_rows:
            self._check_gate()
        lr = self.learning_rate()
        for parameter in self.engine.parameters:
            if parameter.grad is not None:
                parameter.grad /= grad_divisor
        self._regularize_to_base()
        result = self.engine.step(lr)
        self.optimizer_steps += result.applied
        self._no_step_yet = self._no_step_yet and not result.applied
        loss, kl, ratio, clipped = (self._sums / max(self._rows, 1)).tolist()
        anchor = float(self._base_distance_sum) / max(len(self._regularizer_rows), 1)
        metrics = OptimizerStepMetrics(
            loss / grad_divisor, kl, anchor, ratio, drift, clipped, result.grad_norm, lr, self._rows,
            len(self._regularizer_rows), self._samples, result.applied,
        )  # fmt: skip
        self._clear()
        return metrics

    def _check_gate(self) -> None:
        worst = int(self._drift.argmax())
        drift = float(self._drift[worst])
        if not drift <= self.settings.algorithm.ratio_tolerance:
            raise OffPolicyError(
                f"on-policy gate: |ratio - 1| must be at most policy.algorithm.ratio_tolerance={self.settings.algorithm.ratio_tolerance} "
                f"before the first update, got {drift:.3g} at denoise step {worst}: sampler and learner disagree. "
                "Use the same model, dtype and flux.* settings on both; policy.learner.replay_batch=0 replays with the "
                "sampler's own batch shape"
            )
        self._gate_passed = True

    def learning_rate(self) -> float:
        """Linear decay from `lr` to `lr * final_lr_fraction` over `iterations` versions, after a linear warm-up.

        Adam's first steps are as long as its rate, whatever the gradient: at full rate they undo what the base can do.
        """
        done = min(self.version / self.settings.iterations, 1.0)
        warm = min((self.version + 1) / self.settings.optimizer.warmup_iterations, 1.0)
        return warm * self.settings.optimizer.lr * (1 - (1 - self.settings.optimizer.final_lr_fraction) * done)

    @torch.no_grad()
    def end_iteration(self) -> int:
        """Ends an iteration: counts the version up, takes it into the moving average, and returns it.

        ema <- d ema + (1 - d) lora with d = min(ema_decay, (1 + version) / (10 + version)), so that the first
        versions do not drag the untrained start along.
        """
        self.version += 1
        decay = min(self.settings.optimizer.ema_decay, (1 + self.version) / (10 + self.version))
        for key, value in self.policy.lora_state().items():
            self.ema[key].lerp_(value, 1 - decay)
        self._no_step_yet = True
        return self.version

    def weights(self) -> PolicyWeights:
        """The present version's LoRA, as numpy arrays of its own."""
        lora = {key: value.cpu().numpy().copy() for key, value in self.policy.lora_state().items()}
        return PolicyWeights(self.version, lora)

    def ema_weights(self) -> PolicyWeights:
        """The moving average at the present version."""
        return PolicyWeights(self.version, {key: value.cpu().numpy().copy() for key, value in self.ema.items()})

    def state_dict(self) -> dict[str, Any]:
        """All that a resumed learner needs, on the CPU; valid between iterations."""
        return {
            "version": self.version,
            "updates": self.optimizer_steps,
            "lora": {key: value.cpu().clone() for key, value in self.policy.lora_state().items()},
            "ema": {key: value.cpu().clone() for key, value in self.ema.items()},
            "engine": self.engine.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues where `state_dict` was taken, bit for bit."""
        self.version, self.optimizer_steps = state["version"], state["updates"]
        self.policy.load_lora(state["lora"])
        self.ema = {key: value.to(self.policy.device).clone() for key, value in state["ema"].items()}
        self.engine.load_state_dict(state["engine"])
        for parameter in self.engine.parameters:
            parameter.grad = None  # what was accumulated before belongs to other weights
        self._no_step_yet = True
        self._clear()

"""One iteration's groups and updates -> its row and its line in the terminal."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from actors.grpo.learner import OptimizerStepMetrics
from conf.settings import Settings
from pipelines.policy.collector import GroupCollector, ScoredGroup
from pipelines.policy.metrics import EvaluationRow, IterationRow, mean_of_numbers
from pipelines.policy.timing import IterationTimer
from pipelines.policy.utilization import Utilization


@dataclass(frozen=True)
class Counters:
    """What went wrong and was mended, since the driver started."""

    groups_reissued: int
    actors_replaced: int
    learner_restarts: int
    score_retries: int
    groups_resampled: int  # for want of spread

    @classmethod
    def of(cls, groups: GroupCollector, learner_restarts: int) -> Counters:
        """Reads what the pools counted."""
        rollouts = groups.rollouts
        return cls(
            rollouts.reissued + groups.lost,
            rollouts.replaced,
            learner_restarts,
            groups.rewards.retries,
            groups.replaced,
        )


def iteration_row(
    version: int, clock: IterationTimer, groups: Sequence[ScoredGroup], updates: Sequence[OptimizerStepMetrics], loads: Utilization,
    counters: Counters,
) -> IterationRow:  # fmt: skip
    """Measures the iteration that published `version`."""
    advantages = [group.advantages for group in groups]
    scores = np.concatenate([group.scores for group in groups])
    images = sum(group.report.images for group in groups)
    rows = max(sum(update.rows for update in updates), 1)
    ages = [version - 1 - group.report.policy_version for group in groups]
    rate = images / clock.iteration_seconds

    def per_row(values: Sequence[float]) -> float:
        return sum(value * update.rows for value, update in zip(values, updates, strict=True)) / rows

    return IterationRow(
        iteration=version,
        training_seconds=clock.training_seconds,
        iteration_seconds=clock.iteration_seconds,
        between_iterations_seconds=clock.between_iterations_seconds,
        learn_seconds=clock.learn_seconds,
        learner_idle_seconds=max(clock.iteration_seconds - clock.learn_seconds - clock.publish_seconds, 0.0),
        wait_for_images_seconds=clock.wait_for_images_seconds,
        wait_for_scores_seconds=clock.wait_for_scores_seconds,
        wait_for_ranks_seconds=clock.wait_for_ranks_seconds,
        publish_seconds=clock.publish_seconds,
        rollout_actors=loads.rollout_actors,
        sampling_seconds=sum(group.report.seconds for group in groups),
        rollout_idle_seconds=loads.rollout_idle_seconds,
        reward_replicas=loads.reward_replicas,
        reward_queue=loads.reward_queue,
        reward_idle_seconds=loads.reward_idle_seconds,
        score_latency_seconds=float(np.mean([group.score_seconds for group in groups])),
        images=images,
        images_per_second=rate,
        images_per_second_per_gpu=rate / loads.gpus if loads.gpus else math.nan,
        reward_mean=mean_of_numbers([advantage.mean for advantage in advantages]),
        reward_std=mean_of_numbers([advantage.std for advantage in advantages]),
        reward_p10=_quantile(scores, 0.1),
        reward_p90=_quantile(scores, 0.9),
        reward_std_kept=mean_of_numbers([_kept_std(group) for group in groups]),
        groups_skipped=sum(bool(advantage.skipped) for advantage in advantages),
        scores_failed=sum(advantage.failed for advantage in advantages),
        scores_tied=sum(advantage.tied for advantage in advantages),
        samples_trained=sum(update.samples for update in updates),
        loss=per_row([update.loss for update in updates]),
        kl=per_row([update.kl for update in updates]),
        base_distance=per_row([update.base_distance for update in updates]),
        ratio_mean=per_row([update.ratio_mean for update in updates]),
        ratio_drift=updates[0].ratio_drift,
        clip_fraction=per_row([update.clip_fraction for update in updates]),
        grad_norm=updates[-1].grad_norm,
        lr=updates[-1].lr,
        optimizer_steps_applied=sum(update.applied for update in updates),
        optimizer_steps_skipped=sum(not update.applied for update in updates),
        staleness_max=max(ages),
        staleness_mean=float(np.mean(ages)),
        groups_reissued=counters.groups_reissued,
        actors_replaced=counters.actors_replaced,
        learner_restarts=counters.learner_restarts,
        score_retries=counters.score_retries,
        groups_resampled=counters.groups_resampled,
    )


def _quantile(scores: np.ndarray, share: float) -> float:
    finite = scores[np.isfinite(scores)]
    return float(np.quantile(finite, share)) if len(finite) else math.nan


def _kept_std(group: ScoredGroup) -> float:
    kept = group.scores[list(group.advantages.kept)]
    return float(kept.std()) if len(kept) else math.nan


class ProgressPrinter:
    """One tidy line an iteration: what, how many, rate, time left."""

    def __init__(self, settings: Settings, log: Callable[[str], None]) -> None:
        self.policy, self.log = settings.policy, log
        mix = settings.rewards
        alone = mix.spatialscore == 1 and not (mix.rules or mix.judge or mix.detector)
        self._score = "SpatialScore" if alone else "reward"  # what an evaluation's score is
        self._pace = math.nan  # seconds an iteration, smoothed

    def iteration(self, row: IterationRow) -> None:
        """Says one iteration."""
        smooth = 0.0 if math.isnan(self._pace) else 0.8
        self._pace = row.iteration_seconds if not smooth else smooth * self._pace + 0.2 * row.iteration_seconds
        left = (self.policy.iterations - row.iteration) * self._pace
        if self.policy.minutes:
            left = max(min(left, self.policy.minutes * 60 - row.training_seconds), 0.0)
        self.log(
            f"policy {row.iteration:>4}/{self.policy.iterations}"
            f"  reward {row.reward_mean:+.3f} ± {row.reward_std:.3f}"
            f"  {row.images_per_second:.0f} img/s  clip {row.clip_fraction:.0%}  drift {row.ratio_drift:.0e}"
            f"  {minutes(left)} left | {row.iteration_seconds:.1f} s: {wait_breakdown(row)}"
        )

    def evaluation(self, row: EvaluationRow) -> None:
        """Says one held-out evaluation."""
        checked = (
            f"relations {row.relation_accuracy_short:.1%} short, {row.relation_accuracy_long:.1%} long; "
            f"objects {row.object_accuracy_short:.1%}, {row.object_accuracy_long:.1%}; "
        )
        exact = not math.isnan(row.relation_accuracy_short)
        self.log(
            f"held out at {row.iteration}: {checked if exact else ''}{self._score} {row.reward_mean:+.3f}  ("
            f"{row.images} images in {row.evaluation_seconds:.1f} s, after {minutes(row.training_seconds)} min of "
            "training)"
        )


def wait_breakdown(row: IterationRow) -> str:
    """Who waited for what, in a few words: the learner's seconds, and the others' idle share of the iteration."""
    sampled = row.rollout_actors * row.iteration_seconds
    idle = row.rollout_idle_seconds / sampled if sampled else 0.0
    scored = row.reward_replicas * row.iteration_seconds
    unscored = row.reward_idle_seconds / scored if scored else 0.0
    others = f", other ranks {row.wait_for_ranks_seconds:.1f}" if row.wait_for_ranks_seconds >= 0.05 else ""
    return (
        f"learn {row.learn_seconds:.1f}, wait for images {row.wait_for_images_seconds:.1f}, scores "
        f"{row.wait_for_scores_seconds:.1f}{others}, publish {row.publish_seconds:.1f}; idle: {row.rollout_actors:.0f} "
        f"rollouts {idle:.0%}, {row.reward_replicas:.0f} rewards {unscored:.0%}"
    )


def minutes(seconds: float) -> str:
    """m:ss."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"

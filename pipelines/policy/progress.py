"""Turns the groups and optimizer steps of one iteration into its row of metrics.jsonl and its line in the terminal."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from actors.grpo.metrics import OptimizerStepMetrics, weighted_mean
from conf.settings import Settings
from pipelines.policy.collector import GroupCollector, ScoredGroup
from pipelines.policy.metrics import EvaluationRow, IterationRow, mean_of_numbers
from pipelines.policy.reward_statistics import reward_statistics
from pipelines.policy.supervision import Supervision
from pipelines.policy.timing import IterationTimer
from pipelines.policy.utilization import Utilization
from pipelines.policy.waits import wait_breakdown


@dataclass(frozen=True)
class Counters:
    """Failures that the run recovered from, since the driver started."""

    groups_reissued: int
    actors_replaced: int
    learner_restarts: int
    score_retries: int
    groups_resampled: int
    """Groups that were replaced because all scores were equal."""
    device_faults: int = 0
    out_of_memory: int = 0
    nodes_avoided: int = 0
    calls_abandoned: int = 0
    checkpoints_missed: int = 0

    @classmethod
    def of(cls, collector: GroupCollector, learner_restarts: int, supervision: Supervision) -> Counters:
        """Reads the counters of the pools."""
        rollouts, faults = collector.rollouts, supervision.faults
        return cls(
            groups_reissued=rollouts.reissued + collector.reissued,
            actors_replaced=rollouts.replaced,
            learner_restarts=learner_restarts,
            score_retries=collector.rewards.retries,
            groups_resampled=collector.resampled,
            device_faults=faults.device_faults,
            out_of_memory=faults.out_of_memory,
            nodes_avoided=len(faults.avoided_nodes()),
            calls_abandoned=supervision.limits.abandoned.total(),
            checkpoints_missed=supervision.checkpoints_missed,
        )


def iteration_row(
    version: int,
    timer: IterationTimer,
    groups: Sequence[ScoredGroup],
    steps: Sequence[OptimizerStepMetrics],
    utilization: Utilization,
    counters: Counters,
) -> IterationRow:
    """Returns the metrics of the iteration that published `version`."""
    advantages = [group.advantages for group in groups]
    scores = np.concatenate([group.scores for group in groups])
    images = sum(group.report.images for group in groups)
    rows, regularizer_rows = [step.rows for step in steps], [step.regularizer_rows for step in steps]
    ages = [version - 1 - group.report.policy_version for group in groups]
    rate = images / timer.iteration_seconds
    sampling = utilization.rank_sampling_seconds

    return IterationRow(
        iteration=version,
        training_seconds=timer.training_seconds,
        iteration_seconds=timer.iteration_seconds,
        between_iterations_seconds=timer.between_iterations_seconds,
        learn_seconds=timer.learn_seconds,
        learner_sampling_seconds=sampling,
        learner_idle_seconds=max(timer.iteration_seconds - timer.learn_seconds - sampling - timer.publish_seconds, 0.0),
        wait_for_images_seconds=timer.wait_for_images_seconds,
        wait_for_scores_seconds=timer.wait_for_scores_seconds,
        wait_for_ranks_seconds=timer.wait_for_ranks_seconds,
        publish_seconds=timer.publish_seconds,
        rollout_actors=utilization.rollout_actors,
        sampling_seconds=sum(group.report.seconds for group in groups),
        rollout_idle_seconds=utilization.rollout_idle_seconds,
        reward_replicas=utilization.reward_replicas,
        reward_queue=utilization.reward_queue,
        reward_idle_seconds=utilization.reward_idle_seconds,
        score_latency_seconds=float(np.mean([group.score_seconds for group in groups])),
        images=images,
        images_per_second=rate,
        images_per_second_per_gpu=rate / utilization.gpus if utilization.gpus else math.nan,
        reward_mean=mean_of_numbers([advantage.mean for advantage in advantages]),
        reward_std=mean_of_numbers([advantage.std for advantage in advantages]),
        reward_p10=_quantile(scores, 0.1),
        reward_p90=_quantile(scores, 0.9),
        reward_std_kept=mean_of_numbers([_kept_std(group) for group in groups]),
        groups_skipped=sum(bool(advantage.skipped) for advantage in advantages),
        scores_failed=sum(advantage.failed for advantage in advantages),
        scores_tied=sum(advantage.tied for advantage in advantages),
        samples_trained=sum(step.samples for step in steps),
        loss=weighted_mean([step.loss for step in steps], rows),
        kl=weighted_mean([step.kl for step in steps], rows),
        base_distance=weighted_mean([step.base_distance for step in steps], regularizer_rows),
        ratio_mean=weighted_mean([step.ratio_mean for step in steps], rows),
        ratio_drift=steps[0].ratio_drift,
        clip_fraction=weighted_mean([step.clip_fraction for step in steps], rows),
        grad_norm=steps[-1].grad_norm,
        lr=steps[-1].lr,
        optimizer_steps_applied=sum(step.applied for step in steps),
        optimizer_steps_skipped=sum(not step.applied for step in steps),
        staleness_max=max(ages),
        staleness_mean=float(np.mean(ages)),
        groups_reissued=counters.groups_reissued,
        actors_replaced=counters.actors_replaced,
        learner_restarts=counters.learner_restarts,
        score_retries=counters.score_retries,
        groups_resampled=counters.groups_resampled,
        device_faults=counters.device_faults,
        out_of_memory=counters.out_of_memory,
        nodes_avoided=counters.nodes_avoided,
        calls_abandoned=counters.calls_abandoned,
        checkpoints_missed=counters.checkpoints_missed,
        rewards=reward_statistics([group.reward_parts for group in groups], [group.scores for group in groups]),
    )


def _quantile(scores: np.ndarray, q: float) -> float:
    finite = scores[np.isfinite(scores)]
    return float(np.quantile(finite, q)) if len(finite) else math.nan


def _kept_std(group: ScoredGroup) -> float:
    kept = group.scores[list(group.advantages.kept)]
    return float(kept.std()) if len(kept) else math.nan


class ProgressPrinter:
    """Logs one line for each iteration and each evaluation. docs/policy.md explains them."""

    def __init__(self, settings: Settings, log: Callable[[str], None]) -> None:
        self.policy, self.log = settings.policy, log
        training = [term for term in settings.used_rewards().values() if term.trains]
        only_spatialscore = settings.training_weight("spatialscore") == 1 and len(training) == 1
        self._reward_name = "SpatialScore" if only_spatialscore else "reward"
        self._pace = math.nan
        """Seconds of an iteration, smoothed."""

    def iteration(self, row: IterationRow) -> None:
        """Logs one iteration."""
        smoothing = 0.0 if math.isnan(self._pace) else 0.8
        self._pace = row.iteration_seconds if not smoothing else smoothing * self._pace + 0.2 * row.iteration_seconds
        left = (self.policy.iterations - row.iteration) * self._pace
        if self.policy.minutes:
            left = max(min(left, self.policy.minutes * 60 - row.training_seconds), 0.0)
        self.log(
            f"iteration {row.iteration:>4}/{self.policy.iterations}"
            f"  reward {row.reward_mean:+.3f} ± {row.reward_std:.3f}"
            f"  {row.images_per_second:.0f} images/s  clipped {row.clip_fraction:.0%}"
            f"  max |ratio-1| {row.ratio_drift:.0e}  {minutes(left)} left"
            f" | {row.iteration_seconds:.1f} s: {wait_breakdown(row)}"
        )

    def evaluation(self, row: EvaluationRow) -> None:
        """Logs one held-out evaluation."""
        checked = (
            f"relations {row.relation_accuracy_short:.1%} short, {row.relation_accuracy_long:.1%} long; "
            f"objects {row.object_accuracy_short:.1%} short, {row.object_accuracy_long:.1%} long; "
        )
        has_checker = not math.isnan(row.relation_accuracy_short)
        self.log(
            f"evaluation @{row.iteration}: {checked if has_checker else ''}{self._reward_name} {row.reward_mean:+.3f}"
            f"  ({row.images} images in {row.evaluation_seconds:.1f} s, after {minutes(row.training_seconds)} of "
            "training)"
        )


def minutes(seconds: float) -> str:
    """Formats a time as m:ss."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d} min"

"""Stage 3: top-k GRPO. `train` is the algorithm; everything else here starts it, resumes it and exports its result."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import ray
from ray.exceptions import ObjectLostError

from actors.types import PolicyWeights
from actors.workers.learner_group import LearnerLostError
from conf.settings import Settings
from pipelines.common.cluster_address import uses_private_cluster
from pipelines.common.lease import check_lease
from pipelines.common.models import check_model
from pipelines.common.paths import run_paths
from pipelines.common.progress_line import ProgressLine
from pipelines.common.prompts import check_prompts, evaluation_notice
from pipelines.common.resource_wait import wait_with_status
from pipelines.common.reward_sources import check_reward_sources
from pipelines.common.run_folder import driving
from pipelines.common.run_lookup import record_settings
from pipelines.common.trackers import check_trackers
from pipelines.policy.base_model_check import check_base_model
from pipelines.policy.checkpoint import claim_checkpoints, run_checkpoints
from pipelines.policy.collector import Rewards, ScoredGroup
from pipelines.policy.export import export_chosen, export_lora
from pipelines.policy.gauges import EXPORT_SECONDS, RunGauges
from pipelines.policy.metrics import EvaluationRow, read_evaluations
from pipelines.policy.prediction import cluster_prediction
from pipelines.policy.resources import check_capacity, reward_requests
from pipelines.policy.resume import check_resumable
from pipelines.policy.rewards import RewardMix, start_rewards
from pipelines.policy.run_log import track_policy
from pipelines.policy.start_weights import check_start_weights
from pipelines.policy.training_run import TrainingRun
from pipelines.policy.versions import check_export_after_training
from pipelines.reward.guarded import guarded_applications
from pipelines.reward.sanity_report import require_passed
from pipelines.reward.served_model import served_model


async def train(run: TrainingRun) -> PolicyWeights:
    """Sample -> score -> select -> learn -> publish -> checkpoint, until the last policy version is published.

    `launch` starts a task for each prompt that samples its group of images, scores them, and selects the best and
    worst k (GroupCollector). The learner accumulates each group as soon as it is scored.
    """
    await run.restore()  # the newest checkpoint, or policy version 0
    while not run.finished():
        with run.measure_iteration():
            groups = run.collector.launch()  # sample, score, select
            learned: list[ScoredGroup] = []
            metrics = []
            for chunk in run.split_by_optimizer_step(groups):
                accumulated = await run.learner.accumulate(chunk, run.version)
                await run.learner.wait_for_samples(groups)  # a step changes the weights of colocated workers
                metrics.append(await run.learner.optimizer_step(accumulated))
                learned += accumulated
            run.collector.weights = await run.learner.publish()  # policy version + 1
        run.record(learned, metrics)
        await run.checkpoint_if_due()
        await run.evaluate_if_due()
    return await run.final_weights()


async def train_until_finished(run: TrainingRun) -> PolicyWeights:
    """`train`, continued from the newest checkpoint whenever a learner rank, or the node with the weights, dies.

    Every other loss is handled by the pools: dead rollout actors, reward replicas, lost images and trajectories.
    """
    while True:
        try:
            return await train(run)
        except (LearnerLostError, ObjectLostError) as error:
            run.learner.restart(error)


@dataclass(frozen=True)
class PolicyResult:
    """What a finished run leaves behind."""

    version: int
    training_seconds: float
    export: Path
    """Folder of the LoRA in diffusers' format."""
    checkpoints: str
    metrics: Path
    evaluations: tuple[EvaluationRow, ...]
    """Held-out evaluations in order. The first one is the base model's."""


def run_policy(settings: Settings, log: Callable[[str], None] = print) -> PolicyResult:
    """Starts the rewards, trains the policy, and stops the rewards.

    Raises UserError if the run cannot start: no SpatialScore or one that did not pass its sanity checks, no prompts,
    too few resources, or changes that its checkpoint refuses. Raises OffPolicyError (from the learner) if the
    sampler's log-probabilities cannot be reproduced.
    """
    check_spatialscore(settings)
    with driving(settings, "policy", log=log):
        return _run_policy(settings, log)


def _run_policy(settings: Settings, log: Callable[[str], None]) -> PolicyResult:
    check_start(settings)
    if notice := evaluation_notice(settings):
        log(notice)
    with guarded_applications(settings, settings.run_dir):
        rewards = _start_rewards(settings, log)
        try:
            return train_policy(settings, rewards, log)
        finally:
            rewards.stop()


def _start_rewards(settings: Settings, log: Callable[[str], None]) -> RewardMix:
    with closing(RunGauges(run_paths(settings).root)) as gauges, ProgressLine("policy", log) as progress:
        gauges.progress()  # so that an alert can fire while the rewards wait for resources
        progress.phase("starting the rewards")
        starting = asyncio.to_thread(start_rewards, settings)
        return asyncio.run(wait_with_status(starting, reward_requests(settings), progress.log))


def train_policy(settings: Settings, rewards: Rewards, log: Callable[[str], None] = print) -> PolicyResult:
    """Trains, resumes or finishes the run in `settings.run_dir` with rewards that the caller starts and stops.

    Ray must be initialised. Raises what `check_start` raises, and OffPolicyError.
    """
    if not ray.is_initialized():
        raise RuntimeError("train_policy needs a running Ray: call ray.init() first")
    with driving(settings, "policy", log=log):
        check_start(settings)
        if settings.policy.resume == "never":
            run_checkpoints(settings).clear()
        record_settings(settings, "policy")
        with track_policy(settings), ProgressLine("policy", log) as progress:
            return asyncio.run(_train_and_export(settings, rewards, progress))


def check_spatialscore(settings: Settings) -> None:
    """Raises UserError if the run's rewards need a SpatialScore that is missing or did not pass its sanity checks."""
    if settings.uses_reward("spatialscore"):
        served_model(settings)
        require_passed(settings)


def check_files(settings: Settings) -> None:
    """Raises UserError if prompts, a model, `policy.start_from` or `export.version` cannot be used. Needs no Ray."""
    check_prompts(settings)
    check_export_after_training(settings)
    check_start_weights(settings)
    check_trackers(settings)
    check_model(settings, "flux.model", settings.flux.model, "model_index.json")
    check_base_model(settings)
    check_reward_sources(settings)


def check_start(settings: Settings) -> None:
    """Raises UserError if the run cannot start: no prompts, too few resources, or refused changes.

    Rules between settings, such as what the batch must divide, were checked when the settings were made.
    """
    check_files(settings)
    check_capacity(settings)
    checkpoints = claim_checkpoints(settings)
    newest = next(checkpoints.manifests(), None)
    if newest and settings.policy.resume != "never":
        check_resumable(newest, settings)


def _export(weights: PolicyWeights, settings: Settings) -> Path:
    """Exports the last weights, and the best version if `export.version` names it. Returns the folder of the latter."""
    newest = export_lora(weights, settings)
    return newest if settings.export.version == "newest" else export_chosen(settings).export


async def _train_and_export(settings: Settings, rewards: Rewards, progress: ProgressLine) -> PolicyResult:
    paths = run_paths(settings)
    progress.phase("loading the models on the learner and on the rollout actors")
    run = TrainingRun(settings, rewards, progress.log)
    progress.follow(run.state)
    try:
        if line := await asyncio.to_thread(cluster_prediction, settings):  # while the models load
            progress.log(line)
        weights = await train_until_finished(run)
        check_lease(paths.lease)
        result = PolicyResult(
            version=run.version,
            training_seconds=run.timer.training_seconds,
            export=_export(weights, settings),
            checkpoints=run.checkpoints.location,
            metrics=paths.metrics,
            evaluations=read_evaluations(paths.evaluations),
        )
        run.run_log.finish()
        if not uses_private_cluster(settings):
            await asyncio.sleep(EXPORT_SECONDS)  # else RunDied would be raised for a run that ended well
        return result
    finally:
        run.close()

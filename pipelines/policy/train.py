"""Entry of stage 3: settings in, a trained and exported FLUX LoRA out."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path

import ray

from actors.policy.plan import SamplingPlan
from actors.workers.learner import LearnerGroup, LearnerJob
from actors.workers.rollout import start_rollout
from conf import dump
from conf.flux import EMBEDDED
from conf.settings import Settings
from pipelines.common.prompts import check_prompts, draw_held_out_prompts, draw_training_prompts
from pipelines.policy.checkpoint import Checkpoints, check_resumable, run_checkpoints
from pipelines.policy.collector import GroupCollector, RewardPool
from pipelines.policy.export import export_lora
from pipelines.policy.fingerprint import flux_location
from pipelines.policy.held_out import HeldOutEvaluation
from pipelines.policy.learner_client import LearnerClient
from pipelines.policy.loop import PolicyLoop
from pipelines.policy.metrics import EvaluationRow, RunLog, read_evaluations
from pipelines.policy.progress import ProgressPrinter
from pipelines.policy.resources import check_capacity
from pipelines.policy.rollout_pool import RolloutPool


@dataclass(frozen=True)
class PolicyResult:
    """What a finished run left behind."""

    version: int
    training_seconds: float
    export: Path  # diffusers LoRA directory
    checkpoints: str
    metrics: Path
    evaluations: tuple[EvaluationRow, ...]  # held-out, in order; the first is the base's


def train_policy(settings: Settings, rewards: RewardPool, say: Callable[[str], None] = print) -> PolicyResult:
    """Trains, resumes or finishes the run in `settings.run_dir` and exports its LoRA to `<run_dir>/policy/export`.

    Ray must be initialised. `rewards` scores images by reference and stays the caller's to stop. Raises what
    `check_start` raises, and OffPolicyError (from the learner) if the on-policy gate shuts.
    """
    if not ray.is_initialized():
        raise RuntimeError("train_policy needs a running Ray: call ray.init() first")
    check_start(settings)
    checkpoints = run_checkpoints(settings)
    if settings.policy.resume == "never":
        checkpoints.clear()
    dump(settings, Path(settings.run_dir) / "settings.yaml")
    return asyncio.run(_train(settings, rewards, checkpoints, say))


def check_start(settings: Settings) -> None:
    """Raises ValueError, naming the mend, where a run cannot start: no prompts, no room, or other settings than it had.

    What batch, group and rank counts must divide was checked when the settings were made.
    """
    check_prompts(settings)
    check_capacity(settings)
    newest = next(run_checkpoints(settings).manifests(), None)
    if newest and settings.policy.resume != "never":
        check_resumable(newest, settings)


async def _train(
    settings: Settings, rewards: RewardPool, checkpoints: Checkpoints, say: Callable[[str], None]
) -> PolicyResult:
    folder = Path(settings.run_dir, "policy")
    policy, flux, model = settings.policy, settings.flux, flux_location(settings)
    prompts = draw_training_prompts(policy, flux)
    held_out = draw_held_out_prompts(policy, flux, settings.evaluation.seed)
    start_learner = partial(LearnerGroup, LearnerJob(model, flux, policy))
    learner = start_learner()  # before the rollout actors, which may take what is left
    number = count()
    rollouts = RolloutPool(
        lambda: start_rollout(model, flux, policy, next(number)), policy.rollout.max_actors, policy.rollout.min_actors
    )
    plan = SamplingPlan.for_evaluation(settings.evaluation, policy.sampling.batch)
    evaluation = HeldOutEvaluation(
        rollouts, rewards, held_out, plan, settings.evaluation.seed, exact=flux.model == EMBEDDED
    )
    log = RunLog(folder)
    groups = GroupCollector(rollouts, rewards, prompts, policy)
    learning = LearnerClient(policy, learner, start_learner, groups, say)
    loop = PolicyLoop(settings, prompts, groups, learning, evaluation, checkpoints, log, ProgressPrinter(settings, say))
    try:
        weights = await loop.run()
        export = export_lora(weights, settings)
        return PolicyResult(
            loop.version,
            loop.clock.training_seconds,
            export,
            checkpoints.location,
            log.metrics,
            read_evaluations(folder),
        )
    finally:
        loop.stop()
        rollouts.stop()
        log.close()

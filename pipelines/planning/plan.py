"""The plan of a run: what an iteration costs, which divisions of the GPUs are possible, and how long the run takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

from conf import Settings, UserError
from pipelines.planning.calibration import Calibration, read_calibration
from pipelines.planning.durations import chunk_images, durations, kept_images, learning_program, policy_work, score_work
from pipelines.planning.fleet import gpus_of_other_rewards, is_on_gpus, machines
from pipelines.planning.gpus import GpuType, gpu_type
from pipelines.planning.memory import GpuMemory
from pipelines.planning.other_rewards import OtherReward, other_rewards, uncounted
from pipelines.planning.reward_plan import RewardPlan, reward_plans
from pipelines.planning.search import Candidate, best_colocated, best_separate, evaluate

PETA, TERA = 1e15, 1e12


@dataclass(frozen=True)
class PartWork:
    """What one part of an iteration takes, summed over GPUs."""

    name: str
    pflop: float
    terabytes: float
    """Moved between a GPU and its memory."""
    gpu_seconds: float


@dataclass(frozen=True)
class Option:
    """One division of the GPUs, and what is predicted for it."""

    name: str
    rollouts: int
    ranks: int
    replicas: int
    gpus: int
    iteration_seconds: float
    busy: float
    """Share of the GPUs' time that is work."""
    sample_busy: float
    """Share of the time of the GPUs that sample, like the next two."""
    score_busy: float
    learn_busy: float
    images_per_second_per_gpu: float
    days: float
    """Of all iterations, with their evaluations."""
    gpu_hours: float
    memory: tuple[GpuMemory, ...]
    excess_gib: float
    """By how much the fullest GPU lacks memory; 0 if all roles fit."""
    overrides: Mapping[str, Any]
    """The settings to write."""


@dataclass(frozen=True)
class Plan:
    """Everything that `spatialt2i plan` shows."""

    preset: str
    gpu: GpuType
    gpus: int
    calibration: str
    """Name of the measured GPU; "" if all is predicted."""
    images: int
    """Of an iteration."""
    work: tuple[PartWork, ...]
    options: tuple[Option, ...]
    """The settings as they are (if they reserve as many GPUs), the best colocated and the best separate division."""
    rewards: tuple[RewardPlan, ...]
    others: tuple[OtherReward, ...] = ()
    """Rewards beside SpatialScore. The divisions leave room for their replicas."""
    uncounted: tuple[str, ...] = ()
    """Rewards of which nothing is known here."""

    @property
    def best(self) -> Option:
        """The fastest option that fits; if none fits, the one that lacks the least memory."""
        return min(self.options, key=lambda option: (option.excess_gib, option.iteration_seconds))


def make_plan(settings: Settings) -> Plan:
    """Plans stage 3, and predicts stage 2.

    Raises UserError for settings that reserve no GPU for the policy, or too few beside the other rewards, for unknown
    models, and for files that are wrong.
    """
    gpu, calibration, fleet = gpu_type(settings.plan), read_calibration(settings), machines(settings)
    if not is_on_gpus(fleet):
        raise UserError(
            f"plan is for runs on GPUs, and {settings.preset} reserves none: name another preset, e.g. spatialt2i plan "
            "flux_dev plan.gpus=32 plan.gpu=H20"
        )
    gpus, taken = settings.plan.gpus or len(fleet), gpus_of_other_rewards(settings)
    found: list[tuple[str, Candidate | None]] = [
        ("as set", evaluate(settings, gpu, calibration) if gpus == len(fleet) else None),
        ("colocated", best_colocated(settings, gpus, gpu, calibration)),
        ("separate", best_separate(settings, gpus, gpu, calibration)),
    ]
    if not any(candidate for _, candidate in found):
        raise UserError(
            f"no division of {gpus} x {gpu.name}: rewards beside SpatialScore reserve up to {taken}, and a GPU or more "
            "is for the policy: give more GPUs, e.g. plan.gpus=32, or lower the gpus or max_replicas of these rewards"
        )
    return Plan(
        preset=settings.preset,
        gpu=gpu,
        gpus=gpus,
        calibration=calibration.device if calibration else "",
        images=settings.policy.prompts_per_iteration * settings.policy.group_size,
        work=tuple(iteration_work(settings, gpu, calibration)),
        options=tuple(_option(name, candidate, settings) for name, candidate in found if candidate),
        rewards=tuple(reward_plans(settings, gpu)),
        others=tuple(other_rewards(settings, gpu)),
        uncounted=tuple(uncounted(settings)),
    )


def iteration_work(settings: Settings, gpu: GpuType, calibration: Calibration | None) -> list[PartWork]:
    """The work of an iteration by part."""
    policy, seconds = settings.policy, durations(settings, gpu, calibration)
    groups, images = policy.prompts_per_iteration, chunk_images(policy)
    chunks = groups * policy.group_size // images
    passes = groups * ceil(kept_images(policy) * seconds.rows_per_image / seconds.chunk_rows)
    work, steps = policy_work(settings.flux), policy.sampling.denoise_steps
    learning = learning_program(settings, work)
    encoding = 2 * work.encoder_parameters * work.text_tokens * groups
    parts = [
        PartWork(
            "sampling",
            chunks * steps * work.forward.flops(images).total / PETA,
            chunks * steps * work.forward.bytes(images) / TERA,
            chunks * seconds.sample_chunk,
        ),
        PartWork("text encoders", encoding / PETA, 0.0, groups * seconds.encode_prompt),
        PartWork(
            "decoding",
            chunks * images * work.decoding.flops(1).total / PETA,
            chunks * images * work.decoding.bytes(1) / TERA,
            chunks * seconds.decode_chunk,
        ),
    ]
    if settings.trains_on("spatialscore"):
        scoring, count = score_work(settings.spatialscore).scoring, groups * policy.group_size
        pflop, terabytes = scoring.flops(count).total / PETA, scoring.bytes(count) / TERA
        parts.append(PartWork("SpatialScore", pflop, terabytes, groups * seconds.score_group))
    parts.append(
        PartWork(
            "learning",
            passes * learning.flops(seconds.chunk_rows).total / PETA,
            passes * learning.bytes(seconds.chunk_rows) / TERA,
            passes * seconds.accumulate_chunk,
        )
    )
    return parts


def _option(name: str, candidate: Candidate, given: Settings) -> Option:
    settings, iteration = candidate.settings, candidate.iteration
    policy, colocated = settings.policy, settings.policy.placement == "colocated"
    total = policy.iterations * iteration.seconds + _evaluation_seconds(candidate)
    images = policy.prompts_per_iteration * policy.group_size

    def share(used: float, gpus: int) -> float:
        return used / iteration.seconds / gpus if gpus else 0.0

    return Option(
        name=f"{name}: {'colocated' if colocated else 'separate'}" if name == "as set" else name,
        rollouts=policy.rollout.max_actors if policy.rollout.gpus else 0,
        ranks=policy.learner.ranks,
        replicas=settings.serving.max_replicas if iteration.scorers else 0,
        gpus=iteration.gpus,
        iteration_seconds=iteration.seconds,
        busy=iteration.busy,
        sample_busy=share(iteration.sample_seconds, iteration.samplers),
        score_busy=share(iteration.score_seconds, iteration.scorers),
        learn_busy=share(iteration.learn_seconds, iteration.learners),
        images_per_second_per_gpu=images / iteration.seconds / iteration.gpus,
        days=total / 86400,
        gpu_hours=total / 3600 * iteration.gpus,
        memory=candidate.memory,
        excess_gib=candidate.excess_gib,
        overrides=_changes(candidate.overrides, given),
    )


def _evaluation_seconds(candidate: Candidate) -> float:
    """Held-out evaluations of the whole run, spread over all GPUs that sample."""
    evaluation = candidate.settings.policy.evaluation
    if not evaluation.every or not evaluation.prompts:
        return 0.0
    number = 1 + ceil(candidate.settings.policy.iterations / evaluation.every)
    chunks = ceil(evaluation.prompts / candidate.seconds.chunk_images)
    return number * ceil(chunks / candidate.iteration.samplers) * candidate.seconds.evaluate_chunk


def _changes(overrides: Mapping[str, Any], given: Settings) -> dict[str, Any]:
    """The overrides that differ from the settings that were planned for."""
    changed = dict[str, Any]()
    for key, value in overrides.items():
        current: Any = given
        for name in key.split("."):
            current = getattr(current, name)
        if current != value:
            changed[key] = value
    return changed


def settings_lines(overrides: Mapping[str, Any]) -> Sequence[str]:
    """Overrides as the command line takes them."""
    return [f"{key}={value:g}" if isinstance(value, float) else f"{key}={value}" for key, value in overrides.items()]

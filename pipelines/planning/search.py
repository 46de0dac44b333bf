"""The best division of a number of GPUs over the roles, for each placement.

Every division is bounded by the work of its busiest role; the timelines of the most promising ones are then computed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from math import ceil
from typing import Any, Literal

from conf import Settings, SettingsError
from pipelines.planning.calibration import Calibration
from pipelines.planning.durations import RoleSeconds, chunk_images, durations, kept_images
from pipelines.planning.fleet import gpus_of_other_rewards, machines, placed_rewards
from pipelines.planning.gpus import GpuType
from pipelines.planning.memory import GpuMemory, gpu_memory
from pipelines.planning.timeline import Iteration, iterate

SHARED_GPUS = 0.3
"""Share of a worker's GPU that Ray reserves for a reward replica beside it. Ray does not limit memory or time."""
CHECKPOINTING = (0, 8, 6, 5, 4, 3, 2, 1)
"""Values of `flux.checkpoint_every` from the fastest to the smallest."""
SMALLER_BATCH = 1.05
"""A smaller batch must be faster by this factor, because small kernels reach a smaller share of the peak."""
TIMELINES = 8
"""Divisions whose timeline is computed."""


@dataclass(frozen=True)
class Candidate:
    """One division, and what is predicted for it."""

    overrides: Mapping[str, Any]
    """The settings that differ from those that were planned for."""
    settings: Settings
    seconds: RoleSeconds
    memory: tuple[GpuMemory, ...]
    iteration: Iteration

    @property
    def excess_gib(self) -> float:
        """By how much the fullest GPU lacks memory; 0 if all roles fit."""
        return max(each.excess_gib for each in self.memory)


def evaluate(
    settings: Settings, gpu: GpuType, calibration: Calibration | None = None, overrides: Mapping[str, Any] | None = None
) -> Candidate:
    """What is predicted for settings as they are. `overrides`: what was changed in them."""
    seconds = durations(settings, gpu, calibration)
    iteration = iterate(settings.policy, seconds, machines(settings))
    return Candidate(overrides or {}, settings, seconds, tuple(gpu_memory(settings, gpu, calibration)), iteration)


def best_colocated(settings: Settings, gpus: int, gpu: GpuType, calibration: Calibration | None) -> Candidate | None:
    """The fastest division in which the ranks sample too; rewards on GPUs of their own, or beside the workers.

    All divisions leave room for the other rewards. If none fits into memory, the one that lacks the least. None if no
    division exists.
    """
    return _best(settings, divisions(settings, gpus, "colocated"), gpu, calibration)


def best_separate(settings: Settings, gpus: int, gpu: GpuType, calibration: Calibration | None) -> Candidate | None:
    """The same for the division into rollout actors, ranks and rewards."""
    return _best(settings, divisions(settings, gpus, "separate"), gpu, calibration)


def split_candidates(settings: Settings, gpus: int, gpu: GpuType) -> Iterator[Candidate]:
    """The most promising divisions of both placements, with the settings' own batch and checkpointing."""
    search = _Search(settings, gpu, None, keep_checkpointing=True)
    for splits in (divisions(settings, gpus, "colocated"), divisions(settings, gpus, "separate")):
        bounded = sorted(filter(None, (search.bound(split, {}) for split in splits)))
        yield from (evaluate(each.settings, gpu, None, each.overrides) for each in bounded[:TIMELINES])


def _best(
    settings: Settings, splits: Sequence[dict[str, Any]], gpu: GpuType, calibration: Calibration | None
) -> Candidate | None:
    search = _Search(settings, gpu, calibration)
    divided = sorted(filter(None, (search.bound(split, {}) for split in splits)))[:TIMELINES]
    batches = [{}] if calibration else _batches(settings)
    bounded = sorted(filter(None, (search.bound(each.split, batch) for each in divided for batch in batches)))
    candidates = [evaluate(each.settings, gpu, calibration, each.overrides) for each in bounded[:TIMELINES]]
    return min(
        candidates,
        key=lambda each: (each.excess_gib, round(each.iteration.seconds, 2), each.iteration.scorers),
        default=None,
    )


@dataclass(frozen=True, order=True)
class _Bounded:
    """A division with the batch and the checkpointing that go with it. The best one is the smallest."""

    excess_gib: float
    seconds: float
    """Bound from below, see `_bound`."""
    number: int
    split: dict[str, Any] = field(compare=False)
    overrides: dict[str, Any] = field(compare=False)
    settings: Settings = field(compare=False)


class _Search:
    """Bounds divisions. What fits depends on the roles of a GPU, not on the number of GPUs, so it is found once."""

    def __init__(
        self, settings: Settings, gpu: GpuType, calibration: Calibration | None, keep_checkpointing: bool = False
    ) -> None:
        self._settings, self._gpu, self._calibration = settings, gpu, calibration
        self._keep_checkpointing = keep_checkpointing or calibration is not None
        self._fitting: dict[tuple[object, ...], int] = {}
        self._number = count()

    def bound(self, split: dict[str, Any], batch: dict[str, Any]) -> _Bounded | None:
        """None if the settings do not allow the division."""
        try:
            changed = with_overrides(self._settings, split | batch)
        except SettingsError:
            return None
        recomputed = self._checkpointing(changed)
        changed = with_overrides(changed, recomputed)
        excess = max(each.excess_gib for each in gpu_memory(changed, self._gpu, self._calibration))
        bound = _bound(changed, durations(changed, self._gpu, self._calibration)) * (SMALLER_BATCH if batch else 1.0)
        return _Bounded(excess, bound, next(self._number), split, split | batch | recomputed, changed)

    def _checkpointing(self, settings: Settings) -> dict[str, Any]:
        """The change of `flux.checkpoint_every`, if it is not that of the settings. A measured one is kept."""
        if self._keep_checkpointing:
            return {}
        roles = frozenset(machine.roles for machine in machines(settings))
        key = (settings.policy.placement, roles, chunk_images(settings.policy))
        if key not in self._fitting:
            self._fitting[key] = lightest_checkpointing(settings, self._gpu)
        every = self._fitting[key]
        return {} if every == settings.flux.checkpoint_every else {"flux.checkpoint_every": every}


def lightest_checkpointing(settings: Settings, gpu: GpuType) -> int:
    """The value of `flux.checkpoint_every` that computes least again, and fits; 1, all blocks, if none fits."""
    for every in CHECKPOINTING:
        changed = with_overrides(settings, {"flux.checkpoint_every": every})
        if not any(each.excess_gib for each in gpu_memory(changed, gpu)):
            return every
    return 1


def _batches(settings: Settings) -> list[dict[str, Any]]:
    """The settings' batch, and smaller ones. Sampler and learner keep one shape, so that both round alike."""
    size = chunk_images(settings.policy)
    smaller = [each for each in range(size - 1, 0, -1) if settings.policy.group_size % each == 0]
    return [{}, *({"policy.sampling.batch": each, "policy.learner.replay_batch": each} for each in smaller)]


def _bound(settings: Settings, seconds: RoleSeconds) -> float:
    """Seconds of an iteration if the busiest role never waited."""
    policy, fleet = settings.policy, machines(settings)
    groups = policy.prompts_per_iteration
    sample = groups * policy.group_size / seconds.chunk_images * (seconds.sample_chunk + seconds.decode_chunk)
    passes = ceil(kept_images(policy) * seconds.rows_per_image / seconds.chunk_rows)
    learn, score = groups * passes * seconds.accumulate_chunk, groups * seconds.score_group
    samplers, ranks = sum(each.samples for each in fleet), policy.learner.ranks
    scorers = sum(each.scores for each in fleet)
    shared = sum(each.scores for each in fleet if each.samples or each.rank is not None)
    scored = score / scorers if scorers else 0.0
    if policy.placement == "colocated":
        return max((sample + learn + score * shared / max(scorers, 1)) / samplers, scored)
    overlapped = max(sample / samplers, learn / ranks, scored)
    return overlapped if policy.max_staleness else max(overlapped, min(sample, learn) / len(fleet))


def with_overrides(settings: Settings, overrides: Mapping[str, Any]) -> Settings:
    """The settings with other values. Raises SettingsError if they do not go together."""
    sections: dict[str, dict[str, Any]] = {}
    for key, value in overrides.items():
        section, _, name = key.rpartition(".")
        sections.setdefault(section, {})[name] = value
    if not sections:
        return settings
    policy = settings.policy
    parts: dict[str, Any] = {
        name: replace(getattr(policy, name), **sections[f"policy.{name}"])
        for name in ("sampling", "rollout", "learner")
        if f"policy.{name}" in sections
    }
    return replace(
        settings,
        policy=replace(policy, **sections.get("policy", {}), **parts) if parts or "policy" in sections else policy,
        serving=replace(settings.serving, **sections.get("serving", {})),
        flux=replace(settings.flux, **sections.get("flux", {})),
    )


def divisions(settings: Settings, gpus: int, placement: Literal["colocated", "separate"]) -> list[dict[str, Any]]:
    """The settings of each division that is possible on `gpus` GPUs beside the replicas of the other rewards."""
    splits = _colocated_splits if placement == "colocated" else _separate_splits
    fewest = max(1, gpus - gpus_of_other_rewards(settings))  # in a division, the rest is for the other rewards
    found = [split for count in range(gpus, fewest - 1, -1) for split in splits(settings, count)]
    return [split for split in found if _fits(settings, split, gpus)]


def _fits(settings: Settings, split: Mapping[str, Any], gpus: int) -> bool:
    """Whether the settings allow a division, and it needs no more than `gpus` GPUs."""
    try:
        return len(machines(with_overrides(settings, split))) <= gpus
    except SettingsError:
        return False


def _colocated_splits(settings: Settings, gpus: int) -> Iterator[dict[str, Any]]:
    none = {"policy.placement": "colocated", "policy.max_staleness": 0,
            "policy.rollout.min_actors": 0, "policy.rollout.max_actors": 0}  # fmt: skip
    if not _scores_on_gpus(settings):
        yield none | _ranks(gpus, 1.0)
        if any(0 < place.gpus <= SHARED_GPUS for place in placed_rewards(settings).values()):
            yield none | _ranks(gpus, 1.0 - SHARED_GPUS)
        return
    for replicas in sorted({1, 2, 4, gpus // 4, gpus // 2, gpus} - {0}):
        if replicas <= gpus:
            yield none | _ranks(gpus, 1.0 - SHARED_GPUS) | _replicas(replicas, SHARED_GPUS)
    for replicas in range(1, min(gpus, 1 + max(2, gpus // 8))):
        yield none | _ranks(gpus - replicas, 1.0) | _replicas(replicas, 1.0)


def _separate_splits(settings: Settings, gpus: int) -> Iterator[dict[str, Any]]:
    scored = _scores_on_gpus(settings)
    for replicas in range(1, 1 + max(1, gpus // 8)) if scored else (0,):
        for ranks in range(1, gpus - replicas):
            split = {"policy.placement": "separate", "policy.rollout.min_actors": 1,
                     "policy.rollout.max_actors": gpus - replicas - ranks, "policy.rollout.gpus": 1.0}  # fmt: skip
            yield split | _ranks(ranks, 1.0) | (_replicas(replicas, 1.0) if scored else {})


def _scores_on_gpus(settings: Settings) -> bool:
    return bool(settings.uses_reward("spatialscore") and settings.serving.gpus)


def _ranks(count: int, share: float) -> dict[str, Any]:
    engine = "deepspeed" if count > 1 else "torch"
    return {"policy.learner.ranks": count, "policy.learner.gpus": share, "policy.learner.engine": engine}


def _replicas(count: int, share: float) -> dict[str, Any]:
    return {"serving.min_replicas": count, "serving.max_replicas": count, "serving.gpus": share}

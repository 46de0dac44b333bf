"""What each role of a run requests from Ray, and whether a cluster can hold it."""

from __future__ import annotations

from dataclasses import dataclass

from conf.detector import DetectorSettings
from conf.policy import PolicySettings
from conf.rewards import KINDS_WITH_A_SECTION, RewardTerm
from conf.serving import ServingSettings
from conf.settings import Settings
from pipelines.common.resources import ResourceRequest, check_requests


@dataclass(frozen=True)
class Replicas:
    """The replicas of one reward at one moment."""

    request: ResourceRequest
    running: int
    starting: int = 0
    """Replicas that load their model or wait for a node."""


def rollout_request(policy: PolicySettings) -> ResourceRequest:
    """The rollout actors without which a run cannot start."""
    return ResourceRequest(
        role="rollout actors",
        count=policy.rollout.min_actors,
        cpus=policy.rollout.cpus,
        gpus=policy.rollout.gpus,
        node_group=policy.rollout.node_group,
        hint="policy.rollout.min_actors, policy.rollout.cpus or policy.rollout.gpus",
    )


def learner_request(policy: PolicySettings) -> ResourceRequest:
    """The ranks of the learner. With `policy.placement=colocated` they are the policy workers."""
    return ResourceRequest(
        role="learner ranks" if policy.placement == "separate" else "policy workers",
        count=policy.learner.ranks,
        cpus=policy.learner.cpus,
        gpus=policy.learner.gpus,
        node_group=policy.learner.node_group,
        hint="policy.learner.ranks, policy.learner.cpus or policy.learner.gpus",
        placement=policy.learner.placement,
    )


def sampling_request(policy: PolicySettings) -> ResourceRequest:
    """The processes without which nobody samples."""
    return learner_request(policy) if policy.placement == "colocated" else rollout_request(policy)


def spatialscore_request(serving: ServingSettings) -> ResourceRequest:
    """The replicas of SpatialScore without which a run cannot start."""
    return ResourceRequest(
        role="SpatialScore replicas",
        count=serving.min_replicas,
        cpus=serving.cpus,
        gpus=serving.gpus,
        node_group=serving.node_group,
        hint="serving.min_replicas, serving.cpus or serving.gpus",
    )


def rules_request(serving: ServingSettings) -> ResourceRequest:
    """The replica of the exact checker."""
    return ResourceRequest("exact checker", 1, serving.cpus, 0.0, "", "serving.cpus")


def judge_request(serving: ServingSettings) -> ResourceRequest:
    """The replica that calls the judge behind an endpoint."""
    return ResourceRequest("judge client", 1, serving.cpus, 0.0, "", "serving.cpus")


def detector_request(detector: DetectorSettings) -> ResourceRequest:
    """The replicas of the detector without which a run cannot start."""
    return ResourceRequest(
        role="detector replicas",
        count=detector.min_replicas,
        cpus=detector.cpus,
        gpus=detector.gpus,
        node_group=detector.node_group,
        hint="detector.min_replicas, detector.cpus or detector.gpus",
    )


def reward_request(settings: Settings, name: str, term: RewardTerm) -> ResourceRequest:
    """The replicas of a reward without which a run cannot start."""
    kind = term.kind_of(name)
    if kind == "spatialscore":
        return spatialscore_request(settings.serving)
    if kind == "detector":
        return detector_request(settings.detector)
    if kind in KINDS_WITH_A_SECTION:
        return rules_request(settings.serving) if kind == "rules" else judge_request(settings.serving)
    return ResourceRequest(
        role=f"replicas of the reward {name}",
        count=term.min_replicas,
        cpus=term.cpus,
        gpus=term.gpus,
        node_group=term.node_group,
        hint=f"rewards.{name}.min_replicas, rewards.{name}.cpus or rewards.{name}.gpus",
    )


def reward_requests(settings: Settings) -> tuple[ResourceRequest, ...]:
    """The requests of all rewards of a run."""
    return tuple(reward_request(settings, name, term) for name, term in settings.used_rewards().items())


def resource_requests(settings: Settings) -> tuple[ResourceRequest, ...]:
    """The requests of all roles of a run."""
    rollouts = rollout_request(settings.policy)
    return (learner_request(settings.policy), *reward_requests(settings), *([rollouts] if rollouts.count else []))


def check_capacity(settings: Settings) -> None:
    """Raises UserError if the cluster can never hold a run, see `check_requests`."""
    check_requests(settings, resource_requests(settings))

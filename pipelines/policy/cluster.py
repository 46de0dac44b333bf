"""What the driver of stage 3 asks of the cluster: to start and end processes, and what is free."""

from __future__ import annotations

from collections.abc import Awaitable, Collection, Sequence
from typing import Any, Protocol

import numpy as np
import ray

from actors.policy.start import StartLora
from actors.workers.learner import LearnerJob
from actors.workers.learner_group import LearnerGroup, start_learner
from actors.workers.profiles import ProfilePlan
from actors.workers.rollout import start_rollout
from conf.settings import Settings
from pipelines.common.cluster_state import ClusterState, read_cluster
from pipelines.common.paths import run_paths
from pipelines.common.resources import ResourceRequest, unschedulable
from pipelines.policy.checkpoint import Checkpoints, Manifest
from pipelines.policy.checkpoint_writer import States, write_checkpoint
from pipelines.policy.fingerprint import flux_location
from pipelines.policy.resources import learner_request, rollout_request
from pipelines.policy.rollout_pool import join_images_remotely


class Cluster(Protocol):
    """The cluster as the driver sees it. `RayCluster` is a run's; a simulation of the driver has one of its own."""

    def start_rollout(self, number: int) -> Any:
        """Starts rollout actor `number` and returns its handle at once."""
        ...

    def start_learner(self) -> LearnerGroup:
        """Asks for all learner ranks and returns at once."""
        ...

    def kill(self, actor: Any) -> None:
        """Ends an actor, whatever it is doing."""
        ...

    def state(self) -> ClusterState:
        """The nodes, and the processes that wait for one."""
        ...

    def join_images(self, images: Sequence[ray.ObjectRef[np.ndarray]]) -> ray.ObjectRef[np.ndarray]:
        """Makes one object of the images of several calls, outside of this process."""
        ...

    def avoid(self, nodes: frozenset[str]) -> None:
        """Places no further process on these nodes, by Ray's ids, if the other nodes are enough."""
        ...

    def write_checkpoint(
        self, checkpoints: Checkpoints, manifest: Manifest, states: States, pinned: Collection[int]
    ) -> Awaitable[None]:
        """Writes a checkpoint in processes of its own; see checkpoint_writer.write_checkpoint."""
        ...


class RayCluster:
    """The Ray cluster that this process is connected to."""

    def __init__(self, settings: Settings, start: StartLora | None = None) -> None:
        """`start`: the LoRA that the learner starts from. None: from the base."""
        self._settings, self._model, self._start = settings, flux_location(settings), start
        self._profile = ProfilePlan(settings.policy.profile_iterations, str(run_paths(settings).profiles))
        self._avoided: frozenset[str] = frozenset()

    def start_rollout(self, number: int) -> Any:
        """See Cluster."""
        policy = self._settings.policy
        avoided = self._avoidable(rollout_request(policy))
        return start_rollout(self._model, self._settings.flux, policy.rollout, number, avoided, self._profile)

    def start_learner(self) -> LearnerGroup:
        """See Cluster."""
        policy = self._settings.policy
        job = LearnerJob(self._model, self._settings.flux, policy, self._start, self._profile)
        return start_learner(job, self._avoidable(learner_request(policy)))

    def kill(self, actor: Any) -> None:
        """See Cluster."""
        ray.kill(actor)

    def state(self) -> ClusterState:
        """See Cluster."""
        return read_cluster()

    def join_images(self, images: Sequence[ray.ObjectRef[np.ndarray]]) -> ray.ObjectRef[np.ndarray]:
        """See Cluster."""
        return join_images_remotely(images)

    def avoid(self, nodes: frozenset[str]) -> None:
        """See Cluster."""
        self._avoided = nodes

    def _avoidable(self, request: ResourceRequest) -> frozenset[str]:
        """The nodes to avoid; none if the others cannot hold the request: a node that may fail is better than none."""
        if not self._avoided:
            return frozenset()
        others = [node for node in self.state().nodes if node.id not in self._avoided]
        return frozenset() if unschedulable([request], others) else self._avoided

    def write_checkpoint(
        self, checkpoints: Checkpoints, manifest: Manifest, states: States, pinned: Collection[int]
    ) -> Awaitable[None]:
        """See Cluster."""
        return write_checkpoint(checkpoints, manifest, states, pinned)

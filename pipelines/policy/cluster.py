"""What the driver of stage 3 asks of the cluster: to start and end processes, and what is free."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any, Protocol

import ray

from actors.workers.learner import LearnerJob
from actors.workers.learner_group import LearnerGroup, start_learner
from actors.workers.rollout import start_rollout
from conf.settings import Settings
from pipelines.policy.checkpoint_writer import store_file
from pipelines.policy.cluster_state import ClusterState, read_cluster
from pipelines.policy.fingerprint import flux_location


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

    def store(self, location: str, content: ray.ObjectRef[bytes]) -> Awaitable[str]:
        """Writes a file in a process of its own. Returns its SHA-256."""
        ...


class RayCluster:
    """The Ray cluster that this process is connected to."""

    def __init__(self, settings: Settings) -> None:
        self._settings, self._model = settings, flux_location(settings)

    def start_rollout(self, number: int) -> Any:
        """See Cluster."""
        return start_rollout(self._model, self._settings.flux, self._settings.policy.rollout, number)

    def start_learner(self) -> LearnerGroup:
        """See Cluster."""
        return start_learner(LearnerJob(self._model, self._settings.flux, self._settings.policy))

    def kill(self, actor: Any) -> None:
        """See Cluster."""
        ray.kill(actor)

    def state(self) -> ClusterState:
        """See Cluster."""
        return read_cluster()

    def store(self, location: str, content: ray.ObjectRef[bytes]) -> Awaitable[str]:
        """See Cluster."""
        return store_file.remote(location, content)

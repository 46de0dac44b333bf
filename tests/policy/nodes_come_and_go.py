"""Run by test_train.py in a process of its own: a run on three nodes, one of which is lost, and another one joins."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Sequence
from typing import Any

import ray
from ray.cluster_utils import Cluster

from actors.worker_setup import NODE_GROUP
from conf import load
from conf.settings import Settings
from pipelines.policy import train as train_module
from pipelines.policy.collector import ScoredGroup
from pipelines.policy.train import train_policy
from pipelines.policy.training_run import TrainingRun
from tests.support.rewards import RednessPool

if __name__ == "__main__":
    # The head holds the reward and the learner. A rollout actor needs nearly all of a node.
    head = {"num_cpus": 1, "include_dashboard": False, "labels": {NODE_GROUP: "head"}}
    cluster = Cluster(initialize_head=True, connect=True, head_node_args=head)
    rewards = RednessPool()
    workers: list[Any] = []

    def node_of(actor: Any) -> str:
        return ray.get(actor.__ray_call__.remote(lambda rollout: ray.get_runtime_context().get_node_id()))

    class OnChangingNodes(TrainingRun):
        """Loses the node of a rollout actor in iteration 1; a new node joins in iteration 2."""

        def __init__(self, settings: Settings, rewards: Any, log: Any) -> None:
            super().__init__(settings, rewards, log)
            self._accumulate, self.learner.accumulate = self.learner.accumulate, self.accumulate  # type: ignore[method-assign]
            self._launch, self.collector.launch = self.collector.launch, self.launch  # type: ignore[method-assign]
            self._nodes: dict[Any, str] = {}

        async def accumulate(self, groups: Sequence[Awaitable[ScoredGroup]], version: int) -> list[ScoredGroup]:
            ready = self.rollouts.ready_actors
            if version == 0:
                while ready.value < 2:
                    await asyncio.sleep(0.05)
                self._nodes = {actor: await asyncio.to_thread(node_of, actor) for actor in self.rollouts.actors}
            if version == 2 and ready.value == 1:
                cluster.add_node(num_cpus=1)
                while ready.value < 2:
                    await asyncio.sleep(0.05)
            return await self._accumulate(groups, version)

        def launch(self) -> list[asyncio.Task[ScoredGroup]]:
            tasks = self._launch()
            if self.version == 1 and len(workers) == 2:
                freest = self.rollouts._slots._freest()  # where the next group of images would be sampled
                assert freest is not None
                next_actor = freest[0]
                node = next(node for node in workers if node.node_id == self._nodes[next_actor])
                cluster.remove_node(node, allow_graceful=False)
                workers.clear()
            return tasks

    workers += [cluster.add_node(num_cpus=1) for _ in range(2)]
    train_module.TrainingRun = OnChangingNodes
    print(train_policy(load(sys.argv[1]), rewards))
    ray.shutdown()
    cluster.shutdown()

"""Run by test_train.py in a process of its own: a run on three nodes, one of which is lost, and another one joins."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import ray
from ray._private.node import Node
from ray._private.state import actors
from ray.cluster_utils import Cluster

from actors.worker_setup import NODE_GROUP
from conf import load
from pipelines.policy import train as train_module
from pipelines.policy.collector import ScoredGroup
from pipelines.policy.loop import PolicyLoop
from pipelines.policy.train import train_policy
from tests.support.rewards import RednessPool

if __name__ == "__main__":
    # The head keeps the reward and the learner; a rollout actor wants nearly all of a node.
    head = {"num_cpus": 1, "include_dashboard": False, "labels": {NODE_GROUP: "head"}}
    cluster = Cluster(initialize_head=True, connect=True, head_node_args=head)
    rewards = RednessPool()
    workers: list[Node] = []

    class Struck(PolicyLoop):
        """Loses the node of the actor whose turn is next; waits for the pending actor when another node joined."""

        async def learn(self, update: int) -> list[ScoredGroup]:
            ready = self.groups.rollouts.ready_actors
            if self.version == 0 and update == 0:
                while ready.value < 2:
                    await asyncio.sleep(0.05)
            if self.version == 2 and update == 0:
                assert ready.value == 1
                cluster.add_node(num_cpus=1)
                while ready.value < 2:
                    await asyncio.sleep(0.05)
            return await super().learn(update)

        def start_groups(self) -> None:
            super().start_groups()
            if self.version == 1 and len(workers) == 2:
                places: Any = self.groups.rollouts._slots
                place = actors(places._free[0]._actor_id.hex())["Address"]["NodeID"]
                cluster.remove_node(next(node for node in workers if node.node_id == place), allow_graceful=False)
                workers.clear()

    workers += [cluster.add_node(num_cpus=1) for _ in range(2)]
    train_module.PolicyLoop = Struck
    print(train_policy(load(sys.argv[1]), rewards))
    ray.shutdown()
    cluster.shutdown()

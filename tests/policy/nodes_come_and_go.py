"""Run by test_train.py in a process of its own: a run on two nodes, one of which is killed, and another one joins."""

from __future__ import annotations

import asyncio
import sys

from ray.cluster_utils import Cluster

from conf import load
from pipelines.policy import train as train_module
from pipelines.policy.groups import ScoredGroup
from pipelines.policy.loop import PolicyLoop
from pipelines.policy.train import train_policy
from tests.policy.rewards import RednessPool

if __name__ == "__main__":
    cluster = Cluster(initialize_head=True, connect=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    worker = cluster.add_node(num_cpus=1)

    class Struck(PolicyLoop):
        """Loses the second node as its groups begin to be sampled; waits for the pending actor when a third joined."""

        async def learn(self, update: int) -> list[ScoredGroup]:
            ready = self.groups.rollouts.ready_actors
            if self.version == 1 and update == 0:
                while ready.value < 2:
                    await asyncio.sleep(0.05)
                cluster.remove_node(worker, allow_graceful=False)
            if self.version == 2 and update == 0:
                assert ready.value == 1
                cluster.add_node(num_cpus=1)
                while ready.value < 2:
                    await asyncio.sleep(0.05)
            return await super().learn(update)

    train_module.PolicyLoop = Struck
    print(train_policy(load(sys.argv[1]), RednessPool()))
    cluster.shutdown()

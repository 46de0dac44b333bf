"""Run by test_train.py in a process of its own: a run on two nodes, one of which is killed in its second iteration."""

from __future__ import annotations

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
        """Loses the second node as its groups begin to be sampled."""

        async def learn(self, update: int) -> list[ScoredGroup]:
            if self.version == 1 and update == 0:
                cluster.remove_node(worker, allow_graceful=False)
            return await super().learn(update)

    train_module.PolicyLoop = Struck
    print(train_policy(load(sys.argv[1]), RednessPool()))
    cluster.shutdown()

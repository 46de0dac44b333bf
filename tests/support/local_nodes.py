"""A node provider for Ray's autoscaler whose nodes are raylets on this machine. autoscale.py uses it.

Ray has no public way to start a raylet with a given node id, so this uses `ray._private`.
"""

from __future__ import annotations

from typing import Any

from ray._private.node import Node
from ray._private.parameter import RayParams
from ray.autoscaler.node_provider import NodeProvider
from ray.autoscaler.tags import (
    NODE_KIND_HEAD,
    STATUS_UP_TO_DATE,
    TAG_RAY_NODE_KIND,
    TAG_RAY_NODE_NAME,
    TAG_RAY_NODE_STATUS,
    TAG_RAY_USER_NODE_TYPE,
)

HEAD = "f" * 51 + "00000"
"""Node id of the head. All nodes share one IP, so the autoscaler identifies them by id (`use_node_id_as_ip`)."""


class LocalNodes(NodeProvider):
    """Starts and stops raylets of the cluster at `provider.gcs_address`."""

    def __init__(self, provider_config: dict[str, Any], cluster_name: str) -> None:
        super().__init__(provider_config, cluster_name)
        head = {
            TAG_RAY_NODE_KIND: NODE_KIND_HEAD,
            TAG_RAY_USER_NODE_TYPE: "head",
            TAG_RAY_NODE_NAME: HEAD,
            TAG_RAY_NODE_STATUS: STATUS_UP_TO_DATE,
        }
        self._tags = {HEAD: head}
        self._raylets: dict[str, Node] = {}
        self._started = 0

    @staticmethod
    def bootstrap_config(cluster_config: dict[str, Any]) -> dict[str, Any]:
        return cluster_config

    def non_terminated_nodes(self, tag_filters: dict[str, str]) -> list[str]:
        return [node for node, tags in self._tags.items() if tag_filters.items() <= tags.items()]

    def is_running(self, node_id: str) -> bool:
        return node_id in self._tags

    def is_terminated(self, node_id: str) -> bool:
        return node_id not in self._tags

    def node_tags(self, node_id: str) -> dict[str, str]:
        return self._tags[node_id]

    def internal_ip(self, node_id: str) -> str:
        return node_id

    external_ip = internal_ip

    def set_node_tags(self, node_id: str, tags: dict[str, str]) -> None:
        self._tags[node_id].update(tags)

    def create_node_with_resources_and_labels(
        self, node_config: dict[str, Any], tags: dict[str, str], count: int, resources: dict[str, float], labels: dict
    ) -> None:
        for _ in range(count):
            self._started += 1
            node_id = "f" * 51 + f"{self._started:05d}"
            address = self.provider_config["gcs_address"]
            parameters = RayParams(
                redis_address=address,
                gcs_address=address,
                num_cpus=int(resources["CPU"]),
                labels=labels,
                min_worker_port=0,
                max_worker_port=0,
                dashboard_agent_listen_port=0,
                object_store_memory=2**27,
                env_vars={
                    "RAY_OVERRIDE_NODE_ID_FOR_TESTING": node_id,
                    "RAY_CLOUD_INSTANCE_ID": node_id,
                    "RAY_NODE_TYPE_NAME": tags[TAG_RAY_USER_NODE_TYPE],
                },
            )
            self._raylets[node_id] = Node(parameters, head=False, shutdown_at_exit=False, spawn_reaper=False)
            self._tags[node_id] = {**tags, TAG_RAY_NODE_NAME: node_id, TAG_RAY_NODE_STATUS: STATUS_UP_TO_DATE}

    def terminate_node(self, node_id: str) -> None:
        del self._tags[node_id]
        self._raylets.pop(node_id).kill_all_processes(check_alive=False, allow_graceful=False)

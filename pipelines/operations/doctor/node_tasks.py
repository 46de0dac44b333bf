"""Runs a function on chosen nodes of the connected cluster, without waiting for CPUs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

NODE_TIMEOUT = 60.0
"""Seconds after which a node counts as busy."""


def live_nodes(with_gpus: bool = False) -> list[Mapping[str, Any]]:
    """The nodes of the cluster that are there, or only those with GPUs."""
    import ray

    return [node for node in ray.nodes() if node["Alive"] and (node["Resources"].get("GPU") or not with_gpus)]


def node_name(node: Mapping[str, Any]) -> str:
    """A node as it is called in findings."""
    return f"node {node['NodeManagerAddress']}"


def start_on(
    node: Mapping[str, Any], function: Callable[..., Any], arguments: Sequence[Any] = (), gpus: float = 0
) -> Any:
    """Starts a task on one node, which reserves no CPU. Returns its reference."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    task = ray.remote(num_cpus=0, num_gpus=gpus, max_retries=0)(function)
    return task.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote(
        *arguments
    )

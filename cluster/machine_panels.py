"""The row of the dashboard about machines: what an operator looks at when a run is slower than it was."""

from __future__ import annotations

from cluster.panels import Panel, Query, Question

SELECTED_CLUSTERS = 'SessionName=~"$cluster"'
"""Label selector: the Ray clusters that are selected at the top. Each `ray start --head` is a session of its own."""
KILL_ABOVE = 0.95
"""Share of a node's memory above which Ray kills processes (RAY_memory_usage_threshold)."""


def machines() -> Question:
    """GPUs, memory, object store and number of the nodes."""
    used, free = (f"ray_node_gram_{kind}{{{SELECTED_CLUSTERS}}}" for kind in ("used", "available"))
    host = f"ray_node_mem_used{{{SELECTED_CLUSTERS}}} / ray_node_mem_total{{{SELECTED_CLUSTERS}}}"
    return Question(
        "What do the machines do?",
        (
            Panel(
                "GPU use",
                "Share of the time in which a GPU computes. Policy workers should be near 100 % while they sample and "
                "learn; reward GPUs are idle between the groups. Empty on a cluster without GPUs.",
                (Query(f"ray_node_gpus_utilization{{{SELECTED_CLUSTERS}}} / 100", "{{ip}} GPU {{GpuIndex}}"),),
                "percentunit",
                1.0,
            ),
            Panel(
                "GPU memory",
                "Near 100 %, a longer batch is out of memory: lower policy.learner.replay_batch, policy.sampling.batch "
                "or serving.batch_images.",
                (Query(f"{used} / ({used} + {free})", "{{ip}} GPU {{GpuIndex}}"),),
                "percentunit",
                1.0,
            ),
            Panel(
                "Host memory",
                "Above the line Ray kills the largest processes of the node.",
                (Query(host, "{{ip}}"),),
                "percentunit",
                KILL_ABOVE,
            ),
            Panel(
                "Object store",
                "Bytes by place. SPILLED objects are on the disk, from which reading is slow: give nodes more memory.",
                (Query(f"sum(ray_object_store_memory{{{SELECTED_CLUSTERS}}}) by (Location)", "{{Location}}"),),
                "bytes",
            ),
            Panel(
                "Nodes",
                "Nodes that are there. A number that falls without an idle autoscaler is a lost node.",
                (Query(f"count(ray_node_mem_total{{{SELECTED_CLUSTERS}}}) by (RayNodeType)", "{{RayNodeType}}"),),
            ),
        ),
    )

"""Run by test_autoscale.py in a separate process: Ray's autoscaler adds a node for a pending replica, then removes it.

The head has no CPU, so Ray cannot place the replica before a node is added.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import ray
from ray import serve
from ray.cluster_utils import Cluster

from actors.workers.reward import start_pool
from conf.serving import ServingSettings
from tests.support.local_nodes import HEAD
from tests.support.tiny_reward import save_tiny_vlm, tiny_spatialscore


def autoscaler_config(address: str) -> dict[str, object]:
    """At most two nodes with one CPU, removed after six idle seconds."""
    provider = {
        "type": "external",
        "module": "tests.support.local_nodes.LocalNodes",
        "gcs_address": address,
        "use_node_id_as_ip": True,
        "disable_node_updaters": True,
        "disable_launch_config_check": True,
    }
    types = {
        "head": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
        "reward": {"resources": {"CPU": 1}, "node_config": {}, "min_workers": 0, "max_workers": 2},
    }
    return {
        "cluster_name": "local",
        "max_workers": 2,
        "idle_timeout_minutes": 0.1,
        "provider": provider,
        "auth": {},
        "available_node_types": types,
        "head_node_type": "head",
        "head_start_ray_commands": [],
        "worker_start_ray_commands": [],
        "file_mounts": {},
        "cluster_synced_files": [],
        "initialization_commands": [],
        "setup_commands": [],
        "head_setup_commands": [],
        "worker_setup_commands": [],
        "upscaling_speed": 1.0,
        "file_mounts_sync_continuously": False,
        "rsync_exclude": [],
        "rsync_filter": [],
    }


def nodes() -> int:
    """Number of nodes that are alive."""
    return sum(node["Alive"] for node in ray.nodes())


if __name__ == "__main__":
    os.environ.update(
        RAY_USAGE_STATS_ENABLED="0",
        RAY_AUTH_MODE="disabled",
        AUTOSCALER_UPDATE_INTERVAL_S="1",
        RAY_enable_autoscaler_v2="0",
    )
    with socket.socket() as probe:
        probe.bind(("", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        (path / "autoscaler.yaml").write_text(json.dumps(autoscaler_config(f"{ray.util.get_node_ip_address()}:{port}")))
        save_tiny_vlm(path / "vlm")
        tiny_spatialscore(path / "vlm").save_pretrained(path / "model")
        cluster = Cluster(
            initialize_head=True,
            connect=True,
            head_node_args={
                "num_cpus": 0,
                "include_dashboard": False,
                "gcs_server_port": port,
                "autoscaling_config": str(path / "autoscaler.yaml"),
                "env_vars": {"RAY_OVERRIDE_NODE_ID_FOR_TESTING": HEAD, "RAY_NODE_TYPE_NAME": "head"},
            },
        )
        assert nodes() == 1
        started = time.monotonic()
        pool = start_pool(ServingSettings(cpus=1, max_replicas=1), str(path / "model"), str(path))
        scores = asyncio.run(pool.score(ray.put(np.zeros((1, 64, 64, 3), np.uint8)), ("a red circle",)))
        added, scored = nodes(), time.monotonic() - started
        pool.stop()
        idle = time.monotonic()
        while nodes() > 1:
            if time.monotonic() - idle > 240:
                sys.exit("the autoscaler did not remove the node")
            time.sleep(0.5)
        released = time.monotonic() - idle
        serve.shutdown()
        ray.shutdown()
        cluster.shutdown()
    report = {"nodes": added, "score": bool(np.isfinite(scores.mu).all())}
    print(json.dumps(report | {"scored_after": round(scored, 1), "released_after": round(released, 1)}))

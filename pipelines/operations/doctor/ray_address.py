"""The Ray cluster that a preset runs on: does it answer, does it take this user's token, has it room?"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

from conf import Settings
from pipelines.common.ray_session import IN_A_JOB, ray_session
from pipelines.operations.doctor.finding import Finding
from pipelines.operations.doctor.gpus import check_node_gpus
from pipelines.operations.submit import has_token

SECONDS = 3.0  # that a cluster has to take a connection
NO_CLUSTER = "start one (`ray start --head`), set ray_address=host:port, or run this as a job: spatialt2i submit doctor"
NO_TOKEN = "put the cluster's token into RAY_AUTH_TOKEN or ~/.ray/auth_token; docs/cluster.md says where it is kept"


def check_ray(settings: Settings) -> Iterator[Finding]:
    """Joins the cluster, as a run would, and leaves it again. A private one is not started for that."""
    import ray
    from ray.exceptions import AuthenticationError

    if settings.ray_address == "local" and IN_A_JOB not in os.environ:
        yield Finding(True, "Ray: a private cluster on this machine")
        return
    address = settings.ray_address
    if not _answers(address):
        yield Finding(False, f"Ray: nothing answers at {address}", NO_CLUSTER)
        return
    try:
        with ray_session(settings):
            yield Finding(True, f"Ray: joined {ray.get_runtime_context().gcs_address}")
            yield _room(settings)
            yield from check_node_gpus(settings)
    except (AuthenticationError, ConnectionError, RuntimeError) as error:
        turned_away = isinstance(error, AuthenticationError) or (isinstance(error, ConnectionError) and ":" in address)
        if turned_away:  # Ray says "failed to connect" also where the port answers and the token is wrong
            held = "the token held here is not the cluster's" if has_token() else "no token is held here"
            yield Finding(False, f"Ray: {address} answers but does not let this user in: {held}", NO_TOKEN)
        else:
            yield Finding(False, f"Ray: {address} cannot be joined: {str(error).splitlines()[0]}", NO_CLUSTER)


def _answers(address: str) -> bool:
    """Whether something takes connections there; "auto" is left to Ray. Ray itself would try for a minute."""
    host, mark, port = address.removeprefix("ray://").rpartition(":")
    if not mark:
        return True
    try:
        socket.create_connection((host, int(port)), SECONDS).close()
    except OSError:
        return False
    return True


def _room(settings: Settings) -> Finding:
    """Whether the nodes that are there, or what the autoscaler may add, hold the policy stage's least."""
    from pipelines.policy.resources import cluster_nodes, resource_requests, unschedulable

    there = cluster_nodes()
    cpus, gpus = sum(room.cpus for room in there), sum(room.gpus for room in there)
    missing = unschedulable(resource_requests(settings), there)
    told = f"Ray: {cpus:g} CPUs and {gpus:g} GPUs"
    return Finding(not missing, told if not missing else f"{told}: too few", missing)

"""Checks the Ray cluster that a preset runs on: does it answer, accept this user's token, and have enough resources?"""

from __future__ import annotations

from collections.abc import Iterator

from conf import Settings, UserError
from pipelines.common.cluster_address import accepts_connections, uses_private_cluster
from pipelines.common.ray_session import ray_session
from pipelines.operations.doctor.finding import Finding
from pipelines.operations.doctor.gpus import check_node_gpus
from pipelines.operations.job_client import TOKEN_FIX, has_token

CLUSTER_FIX = (
    "start one (`ray start --head`), set ray_address=host:port, or run this as a job: spatialt2i submit doctor"
)


def check_ray(settings: Settings) -> Iterator[Finding]:
    """Joins the cluster as a run would, checks it, and leaves it. A private cluster is not started for this."""
    import ray

    if uses_private_cluster(settings):
        yield Finding(True, "Ray: a private cluster on this machine")
        return
    address = settings.ray_address
    if not accepts_connections(address):
        yield Finding(False, f"Ray: nothing answers at {address}", CLUSTER_FIX)
        return
    try:
        with ray_session(settings):
            yield Finding(True, f"Ray: connected to {ray.get_runtime_context().gcs_address}")
            yield _check_resources(settings)
            yield from check_node_gpus(settings)
    except UserError as error:
        yield _refused(address, error)


def _refused(address: str, error: UserError) -> Finding:
    """The finding if a cluster could not be joined."""
    from ray.exceptions import AuthenticationError

    cause = error.__cause__
    # Ray also reports "failed to connect" if the port answers and the token is wrong
    if isinstance(cause, AuthenticationError) or (isinstance(cause, ConnectionError) and ":" in address):
        token = "this user's token is not the cluster's" if has_token() else "this user has no token"
        return Finding(False, f"Ray: {address} answers but refuses this user: {token}", TOKEN_FIX)
    return Finding(False, f"Ray: cannot connect to {address}: {str(cause or error).splitlines()[0]}", CLUSTER_FIX)


def _check_resources(settings: Settings) -> Finding:
    """Checks that the nodes that the cluster has now can hold the roles of stage 3."""
    from pipelines.policy.cluster_state import read_cluster
    from pipelines.policy.resources import resource_requests, unschedulable

    nodes = read_cluster().nodes
    cpus, gpus = sum(node.cpus for node in nodes), sum(node.gpus for node in nodes)
    message = f"Ray: {cpus:g} CPUs and {gpus:g} GPUs"
    if shortage := unschedulable(resource_requests(settings), nodes):
        return Finding(False, f"{message}: too few", f"{shortage}. Ignore this if an autoscaler adds nodes")
    return Finding(True, message)

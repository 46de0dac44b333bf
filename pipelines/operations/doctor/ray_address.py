"""Checks the Ray cluster that a preset runs on: does it answer, accept this user's token, and have enough resources?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from conf import Settings, UserError
from pipelines.common.cluster_address import accepts_connections, uses_private_cluster
from pipelines.common.ray_session import ray_session
from pipelines.operations.doctor.all_reduce import check_all_reduce
from pipelines.operations.doctor.finding import Finding
from pipelines.operations.doctor.gpus import check_node_gpus
from pipelines.operations.doctor.nodes import check_nodes
from pipelines.operations.doctor.stage import checks_for
from pipelines.operations.job_client import TOKEN_FIX, has_token

if TYPE_CHECKING:
    from pipelines.common.cluster_state import NodeResources
    from pipelines.common.resources import ResourceRequest

CLUSTER_FIX = (
    "start one (`ray start --head`), set ray_address=host:port, or run this as a job: spatialt2i submit doctor"
)


def check_ray(settings: Settings) -> Iterator[Finding]:
    """Joins the cluster as a run would, checks it, and leaves it. A private cluster is not started for this."""
    import ray

    if uses_private_cluster(settings):
        yield Finding(True, "Ray: a private cluster on this machine")
        if settings.doctor.all_reduce:
            with ray_session(settings):
                yield from check_all_reduce()
        return
    address = settings.ray_address
    if not accepts_connections(address):
        yield Finding(False, f"Ray: nothing answers at {address}", CLUSTER_FIX)
        return
    try:
        with ray_session(settings):
            yield Finding(True, f"Ray: connected to {ray.get_runtime_context().gcs_address}")
            yield from check_resources(settings)
            yield from check_nodes(settings)
            if checks_for(settings, "policy"):
                yield from check_node_gpus(settings)
            if settings.doctor.all_reduce:
                yield from check_all_reduce()
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


def check_resources(settings: Settings) -> Iterator[Finding]:
    """Checks that the cluster has room for the workers of stage 2 and the roles of stage 3: now, or at its largest."""
    from pipelines.common.cluster_state import read_cluster
    from pipelines.common.node_limits import largest_cluster
    from pipelines.policy.resources import resource_requests
    from pipelines.reward.train import worker_request

    now, largest = read_cluster().nodes, largest_cluster()
    if checks_for(settings, "reward"):
        yield check_room("stage 2", [worker_request(settings.reward)], now, largest)
    if checks_for(settings, "policy"):
        yield check_room("stage 3", resource_requests(settings), now, largest)


def check_room(
    stage: str,
    requests: Sequence[ResourceRequest],
    now: Sequence[NodeResources],
    largest: Sequence[NodeResources] | None,
) -> Finding:
    """Compares what a stage requests with the nodes that a cluster has, and with those that it may have at most.

    `largest` is None if that is unknown. Then nodes that are missing are no fault, because an autoscaler may add them.
    """
    from pipelines.common.resources import unschedulable

    cpus, gpus = sum(node.cpus for node in now), sum(node.gpus for node in now)
    message = f"Ray, {stage}: {cpus:g} CPUs and {gpus:g} GPUs"
    shortage = unschedulable(requests, now)
    if not shortage:
        return Finding(True, message)
    if largest is None:
        return Finding(True, f"{message}, too few now: a run waits until nodes are added, by an autoscaler or by hand")
    most = f"{sum(node.cpus for node in largest):g} CPUs and {sum(node.gpus for node in largest):g} GPUs"
    if never := unschedulable(requests, largest):
        return Finding(False, f"{message}, at most {most}: too few for ever", f"{never}, and render the manifest again")
    return Finding(True, f"{message} now; the autoscaler may add nodes up to {most}, which is enough")

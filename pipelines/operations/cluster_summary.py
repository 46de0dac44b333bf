"""Summarizes a Ray cluster in three lines: its nodes, its actors, and the actors that wait for resources."""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from conf import UserError

CONNECT_TIMEOUT = 2.0
"""Seconds that the dashboard has to accept a connection."""
LIMIT = 10_000
"""Actors and nodes that are requested: the most that Ray returns."""
REPLICA_PREFIX = "SERVE_REPLICA::"
"""Start of the actor names of Ray Serve's replicas; the application follows."""


@dataclass(frozen=True)
class ClusterSummary:
    """Texts for an operator. `pending` is "" if no actor waits."""

    nodes: str
    actors: str
    pending: str


def read_cluster_summary(address: str) -> ClusterSummary | None:
    """Asks the dashboard at `address`, e.g. http://127.0.0.1:8265. None if nothing answers there.

    Raises UserError if the dashboard answers but refuses to list actors, because the token is missing or wrong.
    """
    url = urlsplit(address)
    try:
        socket.create_connection((url.hostname or "", url.port or 443), CONNECT_TIMEOUT).close()
    except OSError:
        return None
    from ray.exceptions import RayError
    from ray.util.state import list_actors, list_nodes
    from ray.util.state.exception import RayStateApiException

    try:
        nodes = list_nodes(address, limit=LIMIT, timeout=10)
        actors = list_actors(address, limit=LIMIT, timeout=10, detail=True)
    except (RayError, RayStateApiException, ConnectionError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"the dashboard at {address} refuses: {reason}. Set RAY_AUTH_TOKEN to its token") from None
    return summarize(nodes, actors)


def summarize(nodes: Sequence[Any], actors: Sequence[Any]) -> ClusterSummary:
    """Counts nodes by state and sums their resources; names the actors that live and that wait, and counts dead ones.

    Any: Ray's NodeState and ActorState, whose fields it does not type.
    """
    states = Counter(node.state.lower() for node in nodes)
    alive = Counter(_role(actor) for actor in actors if actor.state == "ALIVE")
    pending = Counter(_role(actor) for actor in actors if actor.state not in ("ALIVE", "DEAD"))
    dead = sum(actor.state == "DEAD" for actor in actors)
    resources: Counter[str] = Counter()
    for node in nodes:
        if node.state == "ALIVE":
            resources.update({kind: node.resources_total.get(kind, 0) for kind in ("CPU", "GPU")})
    counts = ", ".join(f"{count} {state}" for state, count in states.items())
    return ClusterSummary(
        nodes=f"{counts}: {resources['CPU']:g} CPUs, {resources['GPU']:g} GPUs",
        actors="; ".join(filter(None, (_join(alive), f"{dead} dead"))),
        pending=_join(pending),
    )


def _role(actor: Any) -> str:
    """The actor's displayed name ("rollout 0"), or the application of a replica, or the class."""
    name = actor.name or ""
    if name.startswith(REPLICA_PREFIX):
        return f"replicas of {name.removeprefix(REPLICA_PREFIX).partition('#')[0]}"
    return actor.repr_name or actor.class_name


def _join(names: Counter[str]) -> str:
    return ", ".join(sorted(name if count == 1 else f"{count} {name}" for name, count in names.items()))

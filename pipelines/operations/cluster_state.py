"""What a Ray cluster says of itself, in three lines: its nodes, its actors, and what waits for a place."""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

SECONDS = 2.0  # that the dashboard has to take a connection
MOST = 10_000  # actors and nodes asked for, the most that Ray gives


@dataclass(frozen=True)
class ClusterState:
    """Texts for an operator; `pending` is "" where nothing waits."""

    nodes: str
    actors: str
    pending: str


def cluster_state(address: str) -> ClusterState | None:
    """The cluster whose dashboard is at `address`; None where nothing answers there.

    Raises RuntimeError, naming the mend, where it answers but tells nothing (no token, or a wrong one).
    """
    place = urlsplit(address)
    try:
        socket.create_connection((place.hostname or "", place.port or 443), SECONDS).close()
    except OSError:
        return None
    from ray.exceptions import RayError
    from ray.util.state import list_actors, list_nodes
    from ray.util.state.exception import RayStateApiException

    try:
        nodes = list_nodes(address, limit=MOST, timeout=10)
        actors = list_actors(address, limit=MOST, timeout=10, detail=True)
    except (RayError, RayStateApiException, ConnectionError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise RuntimeError(f"{address} tells nothing: {reason}. Set RAY_AUTH_TOKEN to its token") from None
    return describe(nodes, actors)


def describe(nodes: Sequence[Any], actors: Sequence[Any]) -> ClusterState:
    """Counts nodes by state, living and dead actors, and those that have no place yet, by name.

    Any: Ray's NodeState and ActorState, whose fields it does not type.
    """
    states = Counter(node.state.lower() for node in nodes)
    alive = Counter(_role(actor) for actor in actors if actor.state == "ALIVE")
    waiting = Counter(_role(actor) for actor in actors if actor.state not in ("ALIVE", "DEAD"))
    dead = sum(actor.state == "DEAD" for actor in actors)
    resources: Counter[str] = Counter()
    for node in nodes:
        if node.state == "ALIVE":
            resources.update({kind: node.resources_total.get(kind, 0) for kind in ("CPU", "GPU")})
    told = ", ".join(f"{count} {state}" for state, count in states.items())
    held = f"{told}: {resources['CPU']:g} CPUs, {resources['GPU']:g} GPUs"
    return ClusterState(held, f"{_listed(alive)}; {dead} gone", _listed(waiting))


def _role(actor: Any) -> str:
    """The name an actor goes by ("rollout 0"), or a replica's application, or its class."""
    if (actor.name or "").startswith("SERVE_REPLICA::"):
        return f"replicas of {(actor.name or '').removeprefix('SERVE_REPLICA::').partition('#')[0]}"
    return actor.repr_name or actor.class_name


def _listed(names: Counter[str]) -> str:
    return ", ".join(sorted(name if count == 1 else f"{count} {name}" for name, count in names.items()))

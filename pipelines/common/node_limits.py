"""How far a cluster may grow, as the manifest that started it says. Ray itself does not tell its drivers.

`cluster.render` writes the limits of its node groups into an environment variable of the head, where drivers run.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from conf import UserError
from pipelines.common.cluster_state import NodeResources

VARIABLE = "SPATIALT2I_MAX_NODES"
"""Environment variable of the head: see `limits_text`."""
ANY = "any"
"""Name of the group of nodes that have none."""
_PART = re.compile(r"(?P<group>[\w-]+)=(?P<nodes>\d+)x(?P<cpus>[\d.]+)x(?P<gpus>[\d.]+)")


@dataclass(frozen=True)
class NodeLimit:
    """The largest number of equal nodes that a node group may have."""

    nodes: int
    cpus: float
    """CPUs of one node."""
    gpus: float
    """GPUs of one node."""
    group: str
    """Its node group; "" if its nodes have none."""


def limits_text(limits: Sequence[NodeLimit]) -> str:
    """The value of the environment variable: GROUP=NODESxCPUSxGPUS for each group, without quotes or spaces."""
    return ",".join(f"{each.group or ANY}={each.nodes}x{each.cpus:g}x{each.gpus:g}" for each in limits)


def largest_cluster(environment: Mapping[str, str] = os.environ) -> tuple[NodeResources, ...] | None:
    """The nodes of the cluster at its largest. None if no manifest says so. Raises UserError for another value."""
    text = environment.get(VARIABLE, "")
    if not text:
        return None
    found: list[NodeResources] = []
    for part in text.split(","):
        match = _PART.fullmatch(part)
        if not match:
            raise UserError(
                f"{VARIABLE} must be like reward=2x8x1,learner=15x16x2 (nodes, CPUs and GPUs of a node), got {text!r}: "
                "render the manifest again, or unset it"
            )
        cpus, gpus = float(match["cpus"]), float(match["gpus"])
        group = "" if match["group"] == ANY else match["group"]
        found += [NodeResources(cpus, gpus, cpus, gpus, group)] * int(match["nodes"])
    return tuple(found)

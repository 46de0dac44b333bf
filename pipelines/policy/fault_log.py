"""The driver's record of device faults: how many there were, which nodes are avoided, and when a run must stop."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable

from actors.workers.faults import DeviceFault
from conf import UserError

MAX_OUT_OF_MEMORY = 3
"""Times in a row that a role may run out of memory before it makes progress."""

FAULTS_OF_AVOIDED_NODE = 2
"""Failures of devices after which replacements are not placed on a node."""

FIXES = {
    "rollout": "lower policy.sampling.batch, or set flux.vae_decoding=sliced and flux.text_encoders_on_cpu=true",
    "learner": "lower policy.learner.replay_batch, or set flux.checkpoint_every=1",
    "worker": "lower policy.sampling.batch and policy.learner.replay_batch, or set flux.checkpoint_every=1",
    "reward": "lower serving.batch_images",
    "detector": "lower detector.batch_images",
}
"""Role -> what makes it need less memory."""


class FaultLog:
    """Counts and logs the device faults of a run, and ends it if a role runs out of memory again and again."""

    def __init__(self, avoid: Callable[[frozenset[str]], object]) -> None:
        """`avoid` is called with Ray's ids of the nodes to place no replacement on, whenever one is added."""
        self._avoid = avoid
        self.device_faults = 0
        """Devices that failed, and learners whose ranks lost each other."""
        self.out_of_memory = 0
        self._out_of_memory_in_a_row: Counter[str] = Counter()
        self._failures: Counter[str] = Counter()
        self._recorded = set[str]()

    def record(self, fault: DeviceFault) -> None:
        """Counts and logs a fault, unless it was recorded before: several calls may report it.

        Raises UserError if its role ran out of memory too often without progress.
        """
        if fault.id in self._recorded:
            return
        self._recorded.add(fault.id)
        log = logging.getLogger(__name__)
        if fault.kind == "out_of_memory":
            self.out_of_memory += 1
            self._out_of_memory_in_a_row[fault.role] += 1
            times = self._out_of_memory_in_a_row[fault.role]
            if times >= MAX_OUT_OF_MEMORY:
                fix = FIXES.get(fault.role, "lower the batch sizes of this role")
                raise UserError(f"out of memory {times} times in a row: {fault}: {fix}, and start the same run again")
            log.warning("out of memory: %s: its work is repeated", fault)
            return
        self.device_faults += 1
        log.warning("device fault: %s: it is replaced, and its work repeated", fault)
        if fault.kind == "device":
            self._failures[fault.node] += 1
            if self._failures[fault.node] == FAULTS_OF_AVOIDED_NODE:
                log.warning("%d devices failed on node %s: replacements avoid it", FAULTS_OF_AVOIDED_NODE, fault.host)
                self._avoid(self.avoided_nodes())

    def progress(self, *roles: str) -> None:
        """Tells that roles finished their work: their memory is enough."""
        for role in roles:
            self._out_of_memory_in_a_row[role] = 0

    def avoided_nodes(self) -> frozenset[str]:
        """Ray's ids of the nodes that replacements avoid."""
        return frozenset(node for node, count in self._failures.items() if count >= FAULTS_OF_AVOIDED_NODE)

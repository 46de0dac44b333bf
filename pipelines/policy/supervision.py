"""What the driver knows of failures: how long calls may take, which devices failed, and missing checkpoints."""

from __future__ import annotations

from collections.abc import Callable

from actors.workers.faults import DeviceFaultError
from actors.workers.learner_group import LearnerLostError
from pipelines.policy.call_limit import CallLimits
from pipelines.policy.fault_log import FaultLog


class Supervision:
    """The limits of calls and the record of faults of one run, shared by its pools and its learner."""

    def __init__(
        self, call_margin_s: float = 600.0, avoid: Callable[[frozenset[str]], object] = lambda nodes: None
    ) -> None:
        """`call_margin_s`: see `policy.call_margin_s`. `avoid` gets the nodes that replacements must avoid."""
        self.limits = CallLimits(call_margin_s)
        self.faults = FaultLog(avoid)
        self.checkpoints_missed = 0
        """Checkpoints that could not be written, or not in time."""

    def rank_lost(self, error: Exception, is_first: bool) -> LearnerLostError:
        """The error of a call to a learner rank that died, or does not return.

        The fault of its device is recorded with the first call that fails, as every call that was under way fails.
        """
        fault = error.fault if isinstance(error, DeviceFaultError) else None
        if fault and is_first:
            self.faults.record(fault)
        return LearnerLostError(str(error), fault)

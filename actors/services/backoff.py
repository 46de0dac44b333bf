"""Which failed calls are repeated, and after how many seconds: one rule for all services and reward replicas."""

from __future__ import annotations

import random

FIRST_WAIT_S = 0.5
"""Seconds before the first retry at most. Doubled from retry to retry."""
_TEMPORARY = (408, 409, 429)


def is_temporary(status: int) -> bool:
    """Whether a call with this HTTP status may succeed at another time: 408, 409, 429, and all from 500 on."""
    return status in _TEMPORARY or status >= 500


def wait_seconds(attempt: int, longest: float, retry_after: float = 0.0, first: float = FIRST_WAIT_S) -> float:
    """Seconds to wait after the failed attempt `attempt`, counted from 0, with jitter so that callers spread out.

    `longest`: bound of the doubled wait. `retry_after`: seconds that the service asks for; they are added.
    """
    return retry_after + min(longest, first * 2**attempt) * random.uniform(0.5, 1.0)

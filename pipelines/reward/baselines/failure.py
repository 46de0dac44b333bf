"""A baseline that could not judge the held-out pairs: which one, and why."""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from dataclasses import dataclass

from ray.exceptions import RayTaskError

from actors.services.budget import BudgetReached
from conf import UserError

MAX_REASON = 300
"""Characters of a reason: some errors hold the output of a whole installation."""


@dataclass(frozen=True)
class FailedBaseline:
    """A baseline without a row in the table."""

    name: str
    reason: str  # one line

    def __str__(self) -> str:
        return f"{self.name} failed and is not in the table: {self.reason}"


def failed_baseline(name: str, error: Exception) -> FailedBaseline:
    """The failure of the baseline `name` by the error that it raised, in this process or in its actor."""
    cause = _cause(error)
    text = " ".join(str(cause).split())[:MAX_REASON]
    return FailedBaseline(name, text if _is_explained(cause) else f"{type(cause).__name__}: {text}")


def traceback_of(error: Exception) -> str:
    """The traceback of an error whose message alone does not say what to do; else an empty text."""
    return "" if _is_explained(_cause(error)) else "".join(traceback.format_exception(error))


def ask_again(failed: Sequence[FailedBaseline]) -> str:
    """Which baselines failed and what to do about it; an empty text if none did."""
    if not failed:
        return ""
    reasons = "; ".join(f"{each.name} ({each.reason})" for each in failed)
    return f"these baselines failed: {reasons}. The same command asks only for what is missing"


def _cause(error: Exception) -> Exception:
    return error.cause if isinstance(error, RayTaskError) and isinstance(error.cause, Exception) else error


def _is_explained(cause: Exception) -> bool:
    return isinstance(cause, (UserError, BudgetReached))

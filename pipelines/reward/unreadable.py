"""Rows of preference pairs that cannot be read. They are left out, counted and named; too many of them are an error."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from conf import UserError

MAX_SHARE = 0.1
"""Share of the rows that may be unreadable."""

MAX_ROWS = 3
"""Unreadable rows that are accepted whatever their share is, if any row can be read."""

_NAMED = 3  # rows that a message names


@dataclass(frozen=True)
class UnreadableRow:
    """A row that could not be decoded."""

    pair_id: str
    reason: str


def describe(unreadable: Sequence[UnreadableRow], rows: int) -> str:
    """How many of `rows` pairs cannot be read, with the names and reasons of the first three."""
    named = "; ".join(f"{row.pair_id}: {row.reason}" for row in unreadable[:_NAMED])
    rest = f"; and {len(unreadable) - _NAMED} more" if len(unreadable) > _NAMED else ""
    return f"{len(unreadable)} of {rows} pairs cannot be read and are left out ({named}{rest})"


def too_many(unreadable: int, rows: int) -> bool:
    """Whether too many of `rows` rows are unreadable for the rest to represent them."""
    return 0 < unreadable == rows or unreadable > max(MAX_ROWS, MAX_SHARE * rows)


def refusal(left_out: str, folder: str) -> UserError:
    """The error if `too_many` rows of a folder are unreadable. `left_out`: what `describe` tells."""
    return UserError(
        f"{left_out}: at most {MAX_SHARE:.0%}, or {MAX_ROWS} pairs, may be left out. Repair or remove these rows in "
        f"{folder}, or build the pairs again"
    )

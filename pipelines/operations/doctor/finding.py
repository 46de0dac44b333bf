"""The result of one check."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """The result of one check, and the fix if it failed."""

    ok: bool
    message: str  # what was checked and found, on one line
    fix: str = ""  # what to do if `ok` is false

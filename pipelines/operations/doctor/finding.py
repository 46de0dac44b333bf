"""What a check finds."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """One check: what was found, and what to do where it is not good."""

    ok: bool
    what: str
    fix: str = ""

"""Checks that settings share: each names the rule, the value and the mend."""

from __future__ import annotations

import difflib
from collections.abc import Sequence


def at_least(name: str, value: float, minimum: float) -> None:
    """Raises ValueError unless value >= minimum."""
    if value < minimum:
        raise ValueError(f"{name} must be at least {minimum}, got {value}")


def between(name: str, value: float, low: float, high: float) -> None:
    """Raises ValueError unless low <= value <= high."""
    if not low <= value <= high:
        raise ValueError(f"{name} must lie between {low} and {high}, got {value}")


def one_of(name: str, value: object, allowed: Sequence[object]) -> None:
    """Raises ValueError, with the nearest allowed word, unless value is one of `allowed`."""
    if value not in allowed:
        choices = ", ".join(str(choice) for choice in allowed)
        raise ValueError(f"{name} must be one of {choices}, got {value!r}{suggestion(str(value), allowed)}")


def suggestion(word: str, allowed: Sequence[object]) -> str:
    """': did you mean X?' where something in `allowed` looks like `word`, else ''."""
    near = difflib.get_close_matches(word, [str(choice) for choice in allowed], n=1)
    return f": did you mean {near[0]}?" if near else ""

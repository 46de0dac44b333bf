"""Checks that settings share: each names the rule, the value and the mend."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


def at_least(name: str, value: float, minimum: float) -> None:
    """Raises ValueError unless value >= minimum."""
    if value < minimum:
        raise ValueError(f"{name} must be at least {minimum}, got {value}")


def above(name: str, value: float, bound: float) -> None:
    """Raises ValueError unless value > bound."""
    if not value > bound:  # so that NaN is refused too
        raise ValueError(f"{name} must be above {bound}, got {value}: raise it")


def between(name: str, value: float, low: float, high: float) -> None:
    """Raises ValueError unless low <= value <= high."""
    if not low <= value <= high:
        raise ValueError(f"{name} must lie between {low} and {high}, got {value}")


def gpus(name: str, value: float) -> None:
    """Raises ValueError unless Ray can reserve so many GPUs: none, a share of one, or whole ones."""
    at_least(name, value, 0.0)
    if value > 1 and value % 1:
        raise ValueError(
            f"{name} must be a share of one GPU or a whole number of them, got {value}: take {value // 1:g} or "
            f"{value // 1 + 1:g}"
        )


def nearest(value: int, allowed: Iterable[int]) -> str:
    """'A or B': of the numbers `allowed` the next below `value` and the next above it; one of them where the other is
    missing.
    """
    numbers = sorted(allowed)
    below, beyond = [number for number in numbers if number < value], [number for number in numbers if number > value]
    return " or ".join(map(str, below[-1:] + beyond[:1]))


def one_of(name: str, value: object, allowed: Sequence[object]) -> None:
    """Raises ValueError, with the nearest allowed word, unless value is one of `allowed`."""
    if value not in allowed:
        choices = ", ".join(str(choice) for choice in allowed)
        raise ValueError(f"{name} must be one of {choices}, got {value!r}{suggestion(str(value), allowed)}")


def suggestion(word: str, allowed: Sequence[object]) -> str:
    """': did you mean X?' where something in `allowed` looks like `word`, else ''."""
    near = difflib.get_close_matches(word, [str(choice) for choice in allowed], n=1)
    return f": did you mean {near[0]}?" if near else ""

"""Which pair belongs to which split. A group, that is a prompt with all that is like it, is never on both sides."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

SPLITS = ("train", "test", "benchmark")


@dataclass(frozen=True)
class Member:
    """A pair of the test side."""

    pair_id: str
    group_id: str
    n_perturb: int


def split_of(group_id: str, test_fraction: float) -> str:
    """`train` or `test`, by the group alone."""
    draw = int.from_bytes(hashlib.blake2b(f"split|{group_id}".encode(), digest_size=4).digest())
    return "test" if draw < test_fraction * 2**32 else "train"


def choose_benchmark(members: Sequence[Member], one: int, more: int) -> set[str]:
    """Ids of `one` pairs with one changed relation and `more` with two or three, out of the test side, by whole groups.

    Raises ValueError if the test side has too few.
    """
    groups: dict[str, list[Member]] = {}
    for member in members:
        groups.setdefault(member.group_id, []).append(member)
    left = {1: one, 2: more}
    chosen: set[str] = set()
    for group in sorted(groups, key=lambda group: hashlib.blake2b(f"benchmark|{group}".encode()).digest()):
        counts = {n: sum(min(member.n_perturb, 2) == n for member in groups[group]) for n in (0, 1, 2)}
        if counts[0] == 0 and all(counts[n] <= left[n] for n in left):
            chosen |= {member.pair_id for member in groups[group]}
            left = {n: left[n] - counts[n] for n in left}
    if any(left.values()):
        raise ValueError(_too_few(left, one, more))
    return chosen


def _too_few(left: Mapping[int, int], one: int, more: int) -> str:
    return (
        f"the benchmark needs {one} pairs with one changed relation and {more} with two or three, and test "
        f"lacks {left[1]} and {left[2]} of them: raise preferences.pairs or test_fraction, or lower benchmark_*"
    )

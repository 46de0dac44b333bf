"""Assigns pairs to splits by groups, so that a prompt and its variants are never in both train and test."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from conf import SettingsError, UserError
from conf.preferences import PreferencesSettings
from conf.review import PublishSettings

SPLITS = ("train", "test")
"""Splits of a build. `preferences publish` draws a third one, benchmark, from the accepted pairs of test."""
BENCHMARK = "benchmark"
DUPLICATE = "duplicate"
"""Split of the rows that are put aside because an earlier row is nearly the same."""


@dataclass(frozen=True)
class Member:
    """An accepted pair of the split test."""

    pair_id: str
    group_id: str
    n_perturb: int


def split_of(group_id: str, test_fraction: float) -> str:
    """`train` or `test`. Depends only on the group."""
    value = int.from_bytes(hashlib.blake2b(f"split|{group_id}".encode(), digest_size=4).digest())
    return "test" if value < test_fraction * 2**32 else "train"


def choose_benchmark(members: Sequence[Member], single_edit: int, multi_edit: int) -> set[str]:
    """Chooses whole groups of the split test for the benchmark, and returns the ids of their pairs.

    `single_edit` pairs have one changed relation, `multi_edit` pairs have two or three. Raises UserError if the split
    has too few of them.
    """
    groups: dict[str, list[Member]] = {}
    for member in members:
        groups.setdefault(member.group_id, []).append(member)
    left = {1: single_edit, 2: multi_edit}
    chosen: set[str] = set()
    for group in sorted(groups, key=lambda group: hashlib.blake2b(f"benchmark|{group}".encode()).digest()):
        counts = {n: sum(min(member.n_perturb, 2) == n for member in groups[group]) for n in (0, 1, 2)}
        if counts[0] == 0 and all(counts[n] <= left[n] for n in left):
            chosen |= {member.pair_id for member in groups[group]}
            left = {n: left[n] - counts[n] for n in left}
    if any(left.values()):
        raise UserError(_too_few(left, single_edit, multi_edit))
    return chosen


def check_benchmark(preferences: PreferencesSettings, publish: PublishSettings) -> None:
    """Raises SettingsError, before anything is paid for, if the split test cannot hold the benchmark."""
    wanted = publish.benchmark_single_edit + publish.benchmark_multi_edit
    expected = preferences.pairs * preferences.test_fraction
    if wanted > expected:
        raise SettingsError(
            f"publish.benchmark_single_edit + publish.benchmark_multi_edit must be at most preferences.pairs x "
            f"preferences.test_fraction, from which they are drawn, got {wanted} > {expected:.0f}: raise one of these, "
            "or for a trial set publish.benchmark_single_edit=0 publish.benchmark_multi_edit=0"
        )


def _too_few(left: Mapping[int, int], single_edit: int, multi_edit: int) -> str:
    return (
        f"the benchmark needs {single_edit} accepted pairs with one changed relation and {multi_edit} with two or "
        f"three, but the split test lacks {left[1]} and {left[2]} of them: review more pairs, or lower "
        "publish.benchmark_single_edit or publish.benchmark_multi_edit (0: no benchmark)"
    )

"""How the groups of an optimizer step are divided over the learner ranks.

Whole groups are dealt in turn, as many to each rank: groups become ready in order, so every rank can begin early, and
the trajectories of a group travel to one rank. Each of the groups that are left over is cut into parts of forward
passes, so that the ranks have equal work. The division follows from the two numbers alone: which rank adds what, and in
which order, is the same in every run. A pass has the same rows wherever it is made.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

Pass = TypeVar("Pass")


@dataclass(frozen=True)
class GroupPart:
    """The passes of a group from `start / of` to `stop / of` of their number."""

    start: int = 0
    stop: int = 1
    of: int = 1

    @property
    def is_first(self) -> bool:
        """Whether the part begins with the group's first pass. What is counted once a group belongs to this part."""
        return self.start == 0

    def cut(self, passes: Sequence[Pass]) -> Sequence[Pass]:
        """The passes of this part. Those of all parts of a group are each of its passes once, in order."""
        first, last = (-(-place * len(passes) // self.of) for place in (self.start, self.stop))
        return passes[first:last]


WHOLE = GroupPart()


@dataclass(frozen=True)
class Share:
    """What a rank learns of one group."""

    group: int
    """Number of the group in the optimizer step, from 0."""
    part: GroupPart


def divide_groups(groups: int, ranks: int) -> list[list[Share]]:
    """The shares of each rank, in the order in which it accumulates them. No rank is without a share.

    Rank r gets groups r, r + ranks, r + 2 ranks, … of the largest multiple of `ranks`. The groups that are left over
    are laid end to end and cut into `ranks` equal lengths.
    """
    dealt = groups // ranks * ranks
    shares = [[Share(group, WHOLE) for group in range(rank, dealt, ranks)] for rank in range(ranks)]
    left = groups - dealt
    for rank in range(ranks if left else 0):
        start, stop = rank * left, (rank + 1) * left  # in units of 1 / ranks of a group
        for group in range(start // ranks, -(-stop // ranks)):
            begin = group * ranks
            part = GroupPart(max(start - begin, 0), min(stop - begin, ranks), ranks)
            shares[rank].append(Share(dealt + group, part))
    return shares

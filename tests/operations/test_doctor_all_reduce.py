"""The doctor adds up a tensor over the processes of a cluster, and names those that do not take part."""

from __future__ import annotations

import re
import time

import pytest

from pipelines.operations.doctor.all_reduce import ReducingRank, Timing, check_all_reduce

pytestmark = pytest.mark.ray


class UnreachableRank(ReducingRank):
    """Rank 1 never reaches rank 0."""

    def meet(self, address: str) -> bool:
        while self.rank:
            time.sleep(1)
        return super().meet(address)


class WrongRank(ReducingRank):
    """Rank 1 gets another sum."""

    def reduce(self, backend: str, mebibytes: int) -> Timing:
        timing = super().reduce(backend, 1)
        return Timing(timing.seconds, timing.right and not self.rank)


def test_all_ranks_get_the_sum(ray_cluster: None) -> None:
    (finding,) = check_all_reduce()
    assert finding.ok, finding
    assert finding.message.startswith("all-reduce over 2 processes by gloo on 1 node: right, ")


def test_a_rank_that_does_not_reach_rank_0_is_named(ray_cluster: None) -> None:
    (finding,) = check_all_reduce(UnreachableRank, meet_within_s=15.0)
    assert not finding.ok and finding.fix, finding
    assert re.search(r": 1 ranks did not reach rank 0 within 15 s: 1 \(node ", finding.message), finding


def test_a_rank_with_another_sum_is_named(ray_cluster: None) -> None:
    (finding,) = check_all_reduce(WrongRank)
    assert not finding.ok and finding.fix, finding
    assert finding.message.endswith(": wrong sums on ranks 1"), finding

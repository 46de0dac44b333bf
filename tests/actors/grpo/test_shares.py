"""Every pass of an optimizer step is made once, and the ranks have equal work."""

from __future__ import annotations

import pytest

from actors.grpo.shares import WHOLE, Share, divide_groups


@pytest.mark.parametrize(
    ("groups", "ranks", "passes", "most"),
    [(24, 31, 5, 4), (6, 4, 1, 2), (24, 12, 5, 10), (3, 8, 2, 1), (5, 2, 3, 8), (24, 1, 5, 120)],
)
def test_every_pass_is_made_once_and_no_rank_has_more_than_its_share(
    groups: int, ranks: int, passes: int, most: int
) -> None:
    shares = divide_groups(groups, ranks)
    made = [[(share.group, i) for share in mine for i in share.part.cut(range(passes))] for mine in shares]
    assert sorted(each for mine in made for each in mine) == [(g, i) for g in range(groups) for i in range(passes)]
    assert all(mine == sorted(mine) for mine in made) and max(map(len, made)) == most
    assert len(shares) == ranks and all(shares)
    first = [share.group for mine in shares for share in mine if share.part.is_first]
    assert sorted(first) == list(range(groups)), "a group's first part is one rank's"


def test_whole_groups_are_dealt_in_turn() -> None:
    assert divide_groups(4, 2) == [[Share(0, WHOLE), Share(2, WHOLE)], [Share(1, WHOLE), Share(3, WHOLE)]]

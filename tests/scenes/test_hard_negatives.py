"""Hard negatives: one image shows the prompt, the other one does not, and they differ in the stated property only."""

from __future__ import annotations

import numpy as np
import pytest

from pipelines.scenes.checker import check, inspect
from pipelines.scenes.grammar import is_held_out
from pipelines.scenes.hard_negatives import HARD_KINDS, HardKind, hard_negatives

COUNT = 8


@pytest.mark.parametrize("kind", HARD_KINDS)
def test_the_winner_shows_its_held_out_prompt_and_the_loser_differs_in_one_property(kind: HardKind) -> None:
    pairs = hard_negatives(kind, COUNT, seed=1)
    assert len(pairs) == COUNT
    assert sorted({len(pair.prompt.relations) for pair in pairs}) == [1, 2]
    for pair in pairs:
        assert is_held_out(pair.prompt.relations)
        assert check(pair.winner, pair.prompt.relations).perfect
        assert not check(pair.loser, pair.prompt.relations).perfect
        same = (pair.winner == pair.loser).all(-1).mean()
        assert same > (0.4 if kind == "mirrored" else 0.7), "the same background"


def _found(image: np.ndarray) -> dict[str, tuple[float, float]]:
    return {each.obj.name: (each.x, each.y) for each in inspect(image)}


def test_each_kind_changes_what_its_name_says() -> None:
    for pair in hard_negatives("mirrored", COUNT, seed=2):
        winner, loser = _found(pair.winner), _found(pair.loser)
        assert set(winner) == set(loser)
        assert all((64 - x, y) == pytest.approx(loser[name], abs=1.0) for name, (x, y) in winner.items())
    for pair in hard_negatives("moved one cell", COUNT, seed=2):
        winner, loser = _found(pair.winner), _found(pair.loser)
        moves = [abs(x - loser[name][0]) + abs(y - loser[name][1]) for name, (x, y) in winner.items()]
        assert sorted(moves)[:-1] == pytest.approx([0] * (len(moves) - 1), abs=1.0)
        assert max(moves) == pytest.approx(16, abs=1.0)
    for pair in hard_negatives("exchanged", COUNT, seed=2):
        winner, loser = _found(pair.winner), _found(pair.loser)
        assert set(winner) == set(loser)
        assert sum(np.hypot(*np.subtract(winner[name], loser[name])) > 8 for name in winner) == 2
    for pair in hard_negatives("colours swapped", COUNT, seed=2):
        winner, loser = set(_found(pair.winner)), set(_found(pair.loser))
        assert len(winner - loser) == len(loser - winner) == 2
        colors, shapes = zip(*(name.split() for name in loser - winner), strict=True)
        assert (sorted(colors), sorted(shapes)) == tuple(
            sorted(values) for values in zip(*(name.split() for name in winner - loser), strict=True)
        )
    for kind in ("missing", "doubled", "occluded"):
        for pair in hard_negatives(kind, COUNT, seed=2):
            winner, loser = _found(pair.winner), _found(pair.loser)
            assert len(winner) - len(set(winner) & set(loser)) >= 1


def test_the_same_seed_gives_the_same_pairs() -> None:
    first, again = (hard_negatives("occluded", 3, seed=5) for _ in range(2))
    assert all((a.loser == b.loser).all() and a.prompt == b.prompt for a, b in zip(first, again, strict=True))
    assert hard_negatives("occluded", 3, seed=6)[0].prompt != first[0].prompt

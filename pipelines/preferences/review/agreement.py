"""How far reviewers agree beyond chance."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence


def cohens_kappa(pairs: Sequence[tuple[Hashable, Hashable]]) -> float | None:
    """kappa = (p_o - p_e) / (1 - p_e) of two reviewers' labels of the same items (Cohen 1960).

    None without items, or where both always gave one and the same label: chance then explains everything.
    """
    if not pairs:
        return None
    count = len(pairs)
    first, second = Counter(one for one, _ in pairs), Counter(other for _, other in pairs)
    observed = sum(one == other for one, other in pairs) / count
    expected = sum(first[label] * second[label] for label in first) / count**2
    return None if expected == 1 else (observed - expected) / (1 - expected)


def krippendorffs_alpha(units: Sequence[Sequence[Hashable]]) -> float | None:
    """alpha = 1 - D_o / D_e for nominal labels, from coincidences (Krippendorff 2011). A unit is one item's labels.

    Any number of reviewers, any of whom may be missing; units with one label say nothing. None where nothing is
    comparable or all labels are the same.
    """
    comparable = [Counter(unit) for unit in units if len(unit) > 1]
    totals: Counter[Hashable] = sum(comparable, Counter())
    count = totals.total()
    observed = sum((unit.total() ** 2 - sum(n**2 for n in unit.values())) / (unit.total() - 1) for unit in comparable)
    expected = count**2 - sum(n**2 for n in totals.values())
    return None if not expected else 1 - (count - 1) * observed / expected

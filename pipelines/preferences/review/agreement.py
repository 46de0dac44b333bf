"""How far annotators agree beyond chance."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence


def cohens_kappa(labels: Sequence[tuple[Hashable, Hashable]]) -> float | None:
    """Returns kappa = (p_o - p_e) / (1 - p_e) for two annotators' labels of the same items (Cohen 1960).

    Returns None if there are no items, or if both always gave the same single label, so that p_e is 1.
    """
    if not labels:
        return None
    count = len(labels)
    first, second = Counter(one for one, _ in labels), Counter(other for _, other in labels)
    observed = sum(one == other for one, other in labels) / count
    expected = sum(first[label] * second[label] for label in first) / count**2
    return None if expected == 1 else (observed - expected) / (1 - expected)


def krippendorffs_alpha(units: Sequence[Sequence[Hashable]]) -> float | None:
    """Returns alpha = 1 - D_o / D_e for nominal labels, by coincidences (Krippendorff 2011).

    A unit holds the labels of one item, from any number of annotators. Units with one label do not count. Returns None
    if no unit has two labels, or if all labels are the same.
    """
    comparable = [Counter(unit) for unit in units if len(unit) > 1]
    totals: Counter[Hashable] = sum(comparable, Counter())
    count = totals.total()
    observed = sum((unit.total() ** 2 - sum(n**2 for n in unit.values())) / (unit.total() - 1) for unit in comparable)
    expected = count**2 - sum(n**2 for n in totals.values())
    return None if not expected else 1 - (count - 1) * observed / expected

"""Counts of a set of preference pairs, and the counts that the paper reports."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

PAPER_SCENES = {
    "Kitchen": 3971,
    "Living Room": 3037,
    "Classroom": 1808,
    "Study": 1607,
    "Bedroom": 1602,
    "Hallway": 1323,
    "Garage": 923,
    "Campsite": 895,
    "Patio": 864,
    "Dining Room": 836,
    "Garden": 826,
    "Bathroom": 750,
    "Home Office": 634,
    "Greenhouse": 632,
    "Balcony": 613,
    "Nursery": 503,
}
"""Pairs per scene, from the paper's pie chart. The chart also shows a long tail without names."""

PAPER_RELATIONS = {3: 503, 4: 3348, 5: 10572, 6: 15572, 7: 19054, 8: 13829, 9: 11056, 10: 3430, 11: 1428, 12: 357}
"""Relations of a prompt -> pairs, read by eye from the paper's histogram."""

WORD_BIN = 5  # width in words of a bin of prompt lengths


@dataclass
class Statistics:
    """Counts of rows. Every counter maps a value to a number of pairs, unless its comment states otherwise."""

    pairs: int = 0
    splits: Counter[str] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    generators: Counter[str] = field(default_factory=Counter)
    scenes: Counter[str] = field(default_factory=Counter)
    relations: Counter[int] = field(default_factory=Counter)  # number of relations of the prompt
    words: Counter[int] = field(default_factory=Counter)  # of the prompt, as the lower end of a bin of WORD_BIN words
    phrases: Counter[str] = field(default_factory=Counter)  # wording of a relation -> relations
    perturbations: Counter[str] = field(default_factory=Counter)  # kind of an edit -> edits
    changed: Counter[int] = field(default_factory=Counter)  # number of changed relations
    annotated: Counter[str] = field(default_factory=Counter)  # status -> pairs that annotators have judged
    unannotated: Counter[str] = field(default_factory=Counter)  # status by the build's own check -> the other pairs
    tiers: Counter[str] = field(default_factory=Counter)  # tier -> accepted pairs
    voted_splits: Counter[str] = field(default_factory=Counter)  # split -> pairs with votes
    by_generator: Counter[tuple[str, str]] = field(default_factory=Counter)  # (generator, status), annotated pairs only

    def add(self, row: Mapping[str, Any], annotated: bool) -> None:
        """Counts one row of the preference schema. `annotated`: its review is one by annotators."""
        self.pairs += 1
        self.splits[row["split"]] += 1
        self.kinds[row["kind"]] += 1
        self.generators[row["generator"]] += 1
        self.scenes[row["scene"]] += 1
        self.relations[len(row["relations"])] += 1
        self.words[len(row["prompt"].split()) // WORD_BIN * WORD_BIN] += 1
        self.phrases.update(relation["relation"] for relation in row["relations"])
        self.perturbations.update(edit["kind"] for edit in row["perturbations"])
        self.changed[row["n_perturb"]] += 1
        status = row["review"]["status"]
        if tier := row["review"].get("tier"):
            self.tiers[tier] += 1
        if row["review"]["votes"]:
            self.voted_splits[row["split"]] += 1
        if annotated:
            self.annotated[status] += 1
            self.by_generator[row["generator"], status] += 1
        else:
            self.unannotated[status] += 1

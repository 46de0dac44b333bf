"""What a model thinks of the pairs under review: kept beside the votes, never among them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from actors.files import write_file

FILE = "triage.json"


@dataclass(frozen=True)
class TriageScores:
    """By how much a model prefers each winner. A pair that it does not prefer, or did not answer, it doubts."""

    by: str  # the model
    margins: Mapping[str, float | None]  # pair id -> margin; None where there was no answer

    @classmethod
    def read(cls, folder: Path) -> TriageScores | None:
        """What `write` left in a run's review folder; None where nobody has triaged."""
        path = folder / FILE
        return cls(**json.loads(path.read_text())) if path.exists() else None

    def write(self, folder: Path) -> None:
        """Keeps it in a run's review folder, whole or not at all."""
        write_file(str(folder / FILE), json.dumps(asdict(self)).encode())

    def about(self, pair_id: str) -> bool:
        """Whether the model doubts a pair; no for one that it has not seen."""
        margin = self.margins.get(pair_id, 1.0)
        return margin is None or margin <= 0

    def rank(self, pair_id: str) -> float:
        """The lower, the sooner people should look: at doubted pairs, the worst first. All others are alike."""
        margin = self.margins.get(pair_id)
        if not self.about(pair_id):
            return float("inf")
        return float("-inf") if margin is None else margin


@dataclass(frozen=True)
class TriageCheck:
    """Whether doubts were of use: what people decided on the pairs that the model doubts, and on the others."""

    by: str
    doubted: Counter[str]  # status -> pairs
    others: Counter[str]


def check(doubts: TriageScores, statuses: Mapping[str, str]) -> TriageCheck:
    """`statuses`: pair id -> status."""
    doubted = Counter(status for pair_id, status in statuses.items() if doubts.about(pair_id))
    return TriageCheck(doubts.by, doubted, Counter(statuses.values()) - doubted)

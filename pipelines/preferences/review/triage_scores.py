"""A model's scores of the pairs under review. They are stored next to the votes and never become votes."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from actors.files import write_file
from actors.json_files import parse_object
from conf import UserError


@dataclass(frozen=True)
class TriageScores:
    """The margins by which a model prefers each winner. It flags a pair without a positive margin."""

    model: str
    margins: Mapping[str, float | None]  # pair id -> margin; None if the model gave no answer

    @classmethod
    def read(cls, path: Path) -> TriageScores | None:
        """Reads the file that `write` wrote. Returns None if there is none. Raises UserError if it is damaged."""
        if not path.exists():
            return None
        try:
            content = parse_object(path.read_bytes())
            margins: dict[str, float | None] = {
                name: None if margin is None else float(margin) for name, margin in content["margins"].items()
            }
            return cls(str(content["model"]), margins)
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise UserError(
                f"{path} must be what `spatialt2i preferences triage` wrote, got: {error}: run it again, or delete it"
            ) from error

    def write(self, path: Path) -> None:
        """Writes the scores as JSON."""
        write_file(str(path), json.dumps(asdict(self)).encode())

    def is_flagged(self, pair_id: str) -> bool:
        """Whether the model does not prefer the winner, or gave no answer. False if it has not scored the pair."""
        margin = self.margins.get(pair_id, 1.0)
        return margin is None or margin <= 0

    def rank(self, pair_id: str) -> float:
        """The sort key of a pair: flagged pairs first, the lowest margin first. All others have the same rank."""
        if not self.is_flagged(pair_id):
            return float("inf")
        margin = self.margins.get(pair_id)
        return float("-inf") if margin is None else margin


@dataclass(frozen=True)
class TriageOutcome:
    """How annotators decided on the pairs that a model flagged, and on the others."""

    model: str
    flagged: Counter[str]  # status -> pairs
    not_flagged: Counter[str]  # status -> pairs


def triage_outcome(scores: TriageScores, statuses: Mapping[str, str]) -> TriageOutcome:
    """Counts the statuses (pair id -> status) of flagged and of other pairs."""
    flagged = Counter(status for pair_id, status in statuses.items() if scores.is_flagged(pair_id))
    return TriageOutcome(scores.model, flagged, Counter(statuses.values()) - flagged)

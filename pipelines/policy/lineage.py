"""The lineage of a run: what it started from, and what changed when it was resumed.

`lineage.jsonl` has one row a change. `status`, the evaluation's report and the model card show it. Imports no torch.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from actors.files import write_file
from actors.json_lines import read_log

MAX_SHOWN = 60
"""Characters of a value in a line."""


@dataclass(frozen=True)
class Change:
    """A setting or an input that is another one from some version on. Values have the types of JSON."""

    name: str
    old: Any
    new: Any
    note: str = ""
    """What it means for the result, if the values do not say it."""

    def __str__(self) -> str:
        """The change in words, for a message."""
        values = f"{_shown(self.old)} → {_shown(self.new)}" if self.old != "" else _shown(self.new)
        return f"{self.name} {values}" + (f" ({self.note})" if self.note else "")


@dataclass(frozen=True)
class LineageRow:
    """A change of a run."""

    version: int
    """The policy version that the run continued from: the change counts for all later versions."""
    date: str
    """When the run continued, UTC, in ISO 8601."""
    change: Change

    def __str__(self) -> str:
        """The row as a line of status, report and card."""
        return f"from version {self.version} ({self.date[:10]}): {self.change}"


def read_lineage(path: Path) -> list[LineageRow]:
    """The rows of a run, oldest first; none if it never changed."""
    return read_log(path, _row)


def record_changes(path: Path, version: int, changes: Sequence[Change]) -> None:
    """Writes the changes with which a run continues from `version`.

    Rows of later versions are removed, because these versions are made again. Rows of this version are replaced: they
    are from a continuation that ended before its first checkpoint. A change that it had made too keeps its date.
    """
    rows = read_lineage(path)
    earlier = [row for row in rows if row.version < version]
    dates = {(row.change.name, json.dumps(row.change.new)): row.date for row in rows if row.version == version}
    now = datetime.now(UTC).isoformat(timespec="seconds")
    added = [LineageRow(version, dates.get((change.name, json.dumps(change.new)), now), change) for change in changes]
    if added or rows:
        lines = (json.dumps(asdict(row)) + "\n" for row in [*earlier, *added])
        write_file(str(path), "".join(lines).encode())


def lineage_up_to(path: Path, version: int | None) -> list[LineageRow]:
    """The rows that policy version `version` depends on. None: all of them."""
    return [row for row in read_lineage(path) if version is None or row.version < version]


def _row(values: dict[str, Any]) -> LineageRow:
    return LineageRow(int(values["version"]), str(values["date"]), Change(**values["change"]))


def _shown(value: object) -> str:
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return text if len(text) <= MAX_SHOWN else text[: MAX_SHOWN - 1] + "…"

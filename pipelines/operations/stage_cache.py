"""Stage records: a JSON file beside each output that says what it was made from, so finished work is not repeated.

A record is written after a stage's output, atomically. It holds the digest of everything that the output depends on
(settings and input files) and the summary that the stage printed.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from actors.files import exists, read_file, write_file


@dataclass(frozen=True)
class StageRecord:
    """One finished stage."""

    digest: str  # of everything that decides the output
    summary: str  # the summary that the stage printed at its end
    seconds: float  # that the stage took


def read_record(path: Path) -> StageRecord | None:
    """The record at `path`; None if there is none."""
    return StageRecord(**json.loads(read_file(str(path)))) if exists(str(path)) else None


def write_record(path: Path, receipt: StageRecord) -> None:
    """Writes a record atomically."""
    write_file(str(path), json.dumps(asdict(receipt), indent=1).encode())

"""Stage records: a JSON file beside each output that says what it was made from, so finished work is not repeated.

A record is written after the output, atomically. It holds the digest of everything that the output depends on
(settings and input files) and the summary that the step printed.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from actors.files import exists, read_file, write_file


@dataclass(frozen=True)
class StageRecord:
    """One finished step of the pipeline."""

    digest: str  # of everything that decides the output
    summary: str  # printed when the step was done
    seconds: float  # wall-clock


def read_record(path: Path) -> StageRecord | None:
    """Reads the record at `path`; None if there is none."""
    return StageRecord(**json.loads(read_file(str(path)))) if exists(str(path)) else None


def write_record(path: Path, record: StageRecord) -> None:
    """Writes a record atomically."""
    write_file(str(path), json.dumps(asdict(record), indent=1).encode())

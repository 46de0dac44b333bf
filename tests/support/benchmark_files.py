"""Published files and golden files of benchmarks, from the folder that SPATIALT2I_BENCHMARKS names."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

FOLDER = os.environ.get("SPATIALT2I_BENCHMARKS", "")
needs_files = pytest.mark.skipif(
    not FOLDER, reason="set SPATIALT2I_BENCHMARKS to a folder with the benchmarks' published files and golden files"
)


def data(name: str) -> Path:
    """The folder of a benchmark's published files."""
    return Path(FOLDER) / "data" / name


def golden(name: str) -> dict[str, Any]:
    """A golden file."""
    return json.loads((Path(FOLDER) / "golden" / f"{name}.json").read_text("utf-8"))


def write_csv(path: Path, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Path:
    """Writes a CSV file as pandas does."""
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerows([columns, *rows])
    return path

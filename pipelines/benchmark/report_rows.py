"""The rows of a benchmark report: every cell by side and protocol, with its interval, range and difference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from conf import UserError
from conf.settings import Settings
from pipelines.benchmark.comparison import difference, estimate
from pipelines.benchmark.items import ScoreProtocol
from pipelines.benchmark.judgement_files import read_judgements
from pipelines.benchmark.judging import name_judge
from pipelines.benchmark.manifest import JudgeName
from pipelines.benchmark.scores import Cell, Scale, Summary
from pipelines.benchmark.work import Work
from pipelines.common.paths import RunPaths
from pipelines.evaluation.tables import Estimate

PROTOCOLS: tuple[ScoreProtocol, ...] = ("official", "fixed")
"""Both are shown side by side."""


@dataclass(frozen=True)
class CellValue:
    """A cell of one side by one protocol, on the benchmark's scale."""

    value: float | None  # None: there is no answer
    low: float | None  # of the 95 % interval over prompts
    high: float | None
    lowest: float | None  # the value if every missing answer were wrong
    highest: float | None  # and if every missing answer were right
    numerator: float
    denominator: float
    missing: float


@dataclass(frozen=True)
class CellRow:
    """One cell of a benchmark."""

    benchmark: str
    table: str
    name: str
    scale: Scale
    note: str
    values: Mapping[str, Mapping[ScoreProtocol, CellValue]]  # side -> protocol
    differences: Mapping[ScoreProtocol, Estimate]  # policy - base, paired by prompt; absent if there is none


@dataclass(frozen=True)
class BenchmarkRows:
    """All rows of one benchmark, and what was judged by whom."""

    name: str
    title: str
    judge: JudgeName
    rows: tuple[CellRow, ...]
    summaries: Mapping[str, Mapping[ScoreProtocol, Summary]]  # side -> protocol
    judgements: Mapping[str, Path]  # side -> file

    def find(self, name: str, table: str | None = None) -> CellRow | None:
        """Returns the row of a cell; None if there is none."""
        return next((row for row in self.rows if row.name == name and table in (None, row.table)), None)


def read_rows(settings: Settings, work: Work, sides: Sequence[str], paths: RunPaths) -> BenchmarkRows:
    """Reads the judgements of a benchmark by the judge of the settings, and scores them.

    Raises UserError if that judge has not judged a side.
    """
    judge, summaries, files = name_judge(settings, work), dict[str, Mapping[ScoreProtocol, Summary]](), {}
    for side in sides:
        files[side] = paths.benchmark_judgements(work.name, judge.folder, side)
        judgements = read_judgements(str(files[side]))
        if judgements is None:
            others = sorted(path.name for path in files[side].parent.parent.glob("*") if path != files[side].parent)
            there = f" (there are judgements by {', '.join(others)})" if others else ""
            raise UserError(
                f"{work.name}: {judge.column} has not judged the images of {side}{there}: run `spatialt2i benchmark "
                "judge` with these settings first"
            )
        summaries[side] = {
            protocol: work.benchmark.summarize(work.items, judgements, protocol) for protocol in PROTOCOLS
        }
    rows = tuple(_rows(work.name, summaries, settings.benchmark.seed))
    return BenchmarkRows(work.name, work.benchmark.title, judge, rows, summaries, files)


def _rows(name: str, summaries: Mapping[str, Mapping[ScoreProtocol, Summary]], seed: int) -> list[CellRow]:
    """One row for each cell that a side has by a protocol, in the order of the corrected scores."""
    first = next(iter(summaries.values()))
    cells = {(cell.table, cell.name): cell for protocol in ("fixed", "official") for cell in first[protocol].cells}
    return [_row(name, cell, summaries, seed) for cell in cells.values()]


def _row(name: str, cell: Cell, summaries: Mapping[str, Mapping[ScoreProtocol, Summary]], seed: int) -> CellRow:
    found: dict[str, dict[ScoreProtocol, Cell]] = {
        side: {
            protocol: same
            for protocol, summary in by_protocol.items()
            if (same := summary.find(cell.name, cell.table)) is not None
        }
        for side, by_protocol in summaries.items()
    }
    differences: dict[ScoreProtocol, Estimate] = {}
    for protocol in PROTOCOLS:
        base, policy = (found.get(side, {}).get(protocol) for side in ("base", "policy"))
        change = difference(base, policy, seed) if base and policy else None
        if change:
            differences[protocol] = change
    values: dict[str, Mapping[ScoreProtocol, CellValue]] = {
        side: {protocol: _value(same, seed) for protocol, same in by_protocol.items()}
        for side, by_protocol in found.items()
    }
    return CellRow(name, cell.table, cell.name, cell.scale, cell.note, values, differences)


def _value(cell: Cell, seed: int) -> CellValue:
    measured = estimate(cell, seed)
    return CellValue(
        cell.value,
        measured.low if measured else None,
        measured.high if measured else None,
        cell.lowest,
        cell.highest,
        cell.numerator,
        cell.denominator,
        cell.missing,
    )

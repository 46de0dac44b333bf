"""The report of the benchmarks: benchmark.json, report.html, a section of the evaluation's page, and a short table."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from actors.files import write_file
from conf.settings import Settings
from pipelines.benchmark.chart import Dot, DotRow, dot_chart
from pipelines.benchmark.items import ScoreProtocol
from pipelines.benchmark.manifest import read_manifest
from pipelines.benchmark.other_measures import MeasuredRow, read_measured
from pipelines.benchmark.overlap import overlap_text, overlaps
from pipelines.benchmark.paper_cells import ComparedCell, compared_cells
from pipelines.benchmark.report_rows import PROTOCOLS, BenchmarkRows, CellRow, CellValue, read_rows
from pipelines.benchmark.work import SIDES, Work
from pipelines.common.paths import RunPaths
from pipelines.evaluation.report import replace_benchmarks
from pipelines.evaluation.tables import Estimate

MUCH_MISSING = 0.01
"""Share of missing judgements above which a value is never printed alone."""


@dataclass(frozen=True)
class _Report:
    """What the report says, in all of its forms."""

    sides: Sequence[str]
    found: Sequence[BenchmarkRows]
    cells: Sequence[ComparedCell]
    warnings: Sequence[str]
    measured: Sequence[MeasuredRow]
    manifests: Mapping[str, Mapping[str, dict[str, Any] | None]]  # benchmark -> side


def write_report(settings: Settings, work: Sequence[Work], sides: Sequence[str], paths: RunPaths) -> str:
    """Scores the judgements of all benchmarks, writes the report into the run, and returns it as a short table.

    Raises UserError if a side was not judged by the judge of the settings.
    """
    found = [read_rows(settings, each, sides, paths) for each in work]
    cells = compared_cells(settings, work, found)
    measured = read_measured(settings, work, paths) if tuple(sides) == SIDES else []
    warnings = [overlap_text(name, count) for name, count in overlaps(settings, work).items()]
    manifests = {each.name: {side: read_manifest(each.judgements[side]) for side in sides} for each in found}
    report = _Report(sides, found, cells, warnings, measured, manifests)
    write_file(str(paths.benchmark_results), json.dumps(_content(report), indent=1).encode())
    section = _render("section.html", settings, report)
    write_file(str(paths.benchmark_section), section.encode())
    if paths.evaluation_report.is_file():
        evaluation = replace_benchmarks(paths.evaluation_report.read_text(), section)
        write_file(str(paths.evaluation_report), evaluation.encode())
    page = _environment().get_template("page.html").render(section=Markup(section), settings=settings)
    write_file(str(paths.benchmark_report), page.encode())
    return "\n".join(
        [
            *_table(found, cells, sides),
            *_other_lines(measured),
            *warnings,
            f"Open {paths.benchmark_report} in a browser.",
        ]
    )


def _content(report: _Report) -> dict[str, Any]:
    """What benchmark.json holds."""
    return {
        "sides": list(report.sides),
        "warnings": list(report.warnings),
        "other_measures": [asdict(row) for row in report.measured],
        "paper_cells": [asdict(cell) for cell in report.cells],
        "benchmarks": [
            {
                "name": each.name,
                "title": each.title,
                "judge": asdict(each.judge),
                "cells": [asdict(row) for row in each.rows],
                "sides": {side: _side(each, side, report.manifests[each.name][side] or {}) for side in report.sides},
            }
            for each in report.found
        ],
    }


def _side(rows: BenchmarkRows, side: str, manifest: Mapping[str, Any]) -> dict[str, Any]:
    """How many images of a side were judged, what is missing, and its manifest without the list of images."""
    images = {name: value for name, value in manifest.get("images", {}).items() if name != "files"}
    return {
        protocol: {
            "images_expected": summary.images_expected,
            "images_judged": summary.images_judged,
            "unreadable": dict(summary.unreadable),
            "lost": dict(summary.lost),
            "notes": list(summary.notes),
        }
        for protocol, summary in rows.summaries[side].items()
    } | {"manifest": {**manifest, "images": images}}


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters: Any = environment.filters  # Any: its type lists jinja2's own filters only
    filters.update(value=shown_value, change=shown_change, range=shown_range)
    return environment


def _render(template: str, settings: Settings, report: _Report) -> str:
    charts = {each.name: _chart(each, report.sides) for each in report.found}
    content = {field.name: getattr(report, field.name) for field in fields(report)}
    return (
        _environment().get_template(template).render(settings=settings, charts=charts, protocols=PROTOCOLS, **content)
    )


def _chart(rows: BenchmarkRows, sides: Sequence[str]) -> Markup:
    """The cells by the corrected rules, side against side; empty if there is no value."""
    drawn = [
        DotRow(f"{row.table} {row.name}".strip(), dots)
        for row in rows.rows
        if len(dots := _dots(row, sides)) == len(sides)
    ]
    return Markup(dot_chart(f"{rows.title}: {' against '.join(sides)}", drawn)) if drawn else Markup("")


def _dots(row: CellRow, sides: Sequence[str]) -> tuple[Dot, ...]:
    scale, dots = (100.0 if row.scale == "percent" else 1.0), list[Dot]()
    for side in sides:
        cell = row.values.get(side, {}).get("fixed")
        if cell and cell.value is not None and cell.low is not None and cell.high is not None:
            dots.append(Dot(side, cell.value / scale, cell.low / scale, cell.high / scale))
    return tuple(dots)


def shown_value(cell: CellValue | None, scale: str) -> str:
    """A value, and its range if over 1 % of the answers are missing: "0.871" or "0.871 (0.85 to 0.88)"."""
    if cell is None or cell.value is None:
        return "none"
    expected = cell.denominator + cell.missing
    much = expected and cell.missing / expected > MUCH_MISSING
    return _number(cell.value, scale) + (f" ({shown_range(cell, scale)})" if much else "")


def shown_range(cell: CellValue, scale: str) -> str:
    """The values if every missing answer were wrong, and if every one were right."""
    if cell.lowest is None or cell.highest is None:
        return "no answer"
    return f"{_number(cell.lowest, scale)} to {_number(cell.highest, scale)}"


def shown_change(change: Estimate | None, scale: str) -> str:
    """A difference with its interval: "+0.061 [+0.030, +0.090]"; "" if there is none."""
    if change is None:
        return ""
    value, low, high = (_number(each, scale, sign="+") for each in (change.value, change.low, change.high))
    return f"{value} [{low}, {high}]"


def _number(value: float, scale: str, sign: str = "") -> str:
    return f"{value:{sign}.1f}" if scale == "percent" else f"{value:{sign}.3f}"


def _table(found: Sequence[BenchmarkRows], cells: Sequence[ComparedCell], sides: Sequence[str]) -> list[str]:
    """The paper's cells, or else all cells, as lines for a terminal."""
    lines, shown = list[str](), {cell.key for cell in cells}
    for each in found:
        rows = [row for row in each.rows if (row.benchmark, row.table, row.name) in shown]
        lines += [f"{each.title} ({each.name}), judge: {each.judge.column}", _heading(sides)]
        lines += [_line(row, sides, protocol) for row in rows or each.rows for protocol in _different(row, sides)]
        missing = {
            side: each.summaries[side]["fixed"].images_expected - each.summaries[side]["fixed"].images_judged
            for side in sides
        }
        if any(missing.values()):
            lines.append("  images without a judgement: " + ", ".join(f"{n} of {side}" for side, n in missing.items()))
    return lines


def _other_lines(measured: Sequence[MeasuredRow]) -> list[str]:
    """What else changed, as lines for a terminal."""
    lines = ["What else changed, policy - base [95 % interval]"] if measured else []
    for row in measured:
        preferred = f"   policy preferred: {row.preferred.value:.1%}" if row.preferred else ""
        lines.append(f"  {row.benchmark + ', ' + row.name:<46}{shown_change(row.difference, 'share')}{preferred}")
    return lines


def _heading(sides: Sequence[str]) -> str:
    columns = "".join(f"{side:>26}" for side in sides)
    return f"  {'':<46}{columns}" + ("   difference [95 % interval]" if len(sides) > 1 else "")


def _different(row: CellRow, sides: Sequence[str]) -> list[ScoreProtocol]:
    """Both protocols if their values differ, else one."""
    values = [[_text(row, side, protocol) for side in sides] for protocol in PROTOCOLS]
    known: list[ScoreProtocol] = [each for each in PROTOCOLS if any(each in row.values.get(side, {}) for side in sides)]
    return known[:1] if values[0] == values[1] else known


def _text(row: CellRow, side: str, protocol: ScoreProtocol) -> str:
    cell: Mapping[ScoreProtocol, CellValue] = row.values.get(side, {})
    return shown_value(cell.get(protocol), row.scale)


def _line(row: CellRow, sides: Sequence[str], protocol: ScoreProtocol) -> str:
    title = f"{row.table} {row.name}".strip() + f", {protocol}"
    columns = "".join(f"{_text(row, side, protocol):>26}" for side in sides)
    return f"  {title:<46}{columns}   {shown_change(row.differences.get(protocol), row.scale)}".rstrip()

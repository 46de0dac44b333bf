"""The paper's cells beside ours, and whether they compare, in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from conf.settings import Settings
from pipelines.benchmark.items import ScoreProtocol
from pipelines.benchmark.published import PAPER_CELLS, PUBLISHED, Conditions, compare
from pipelines.benchmark.report_rows import BenchmarkRows, CellRow, CellValue
from pipelines.benchmark.scores import Scale
from pipelines.benchmark.work import Work
from pipelines.evaluation.tables import Estimate

PROTOCOL: ScoreProtocol = "official"
"""The paper's figures are by the official rules."""
PUBLISHED_JUDGES: Mapping[str, tuple[str, ...]] = {
    "tiif": ("gpt-4o", "qwen2.5-vl-72b"),
    "unigenbench": ("gemini-2.5-pro", "unigenbench-evalmodel"),
    "unigenbench_long": ("gemini-2.5-pro", "unigenbench-evalmodel"),
}
"""Benchmark -> parts of the names of judges that published results are by. Of DPG-Bench and GenEval: none here."""


@dataclass(frozen=True)
class ComparedCell:
    """A cell of the paper and ours."""

    title: str
    key: tuple[str, str, str]  # benchmark, table and name of our cell
    scale: Scale
    values: Mapping[str, CellValue]  # side -> ours, by the official rules
    difference: Estimate | None  # policy - base
    paper_base: str  # FLUX.1-dev, on the benchmark's scale
    paper_trained: str  # the paper's own model
    comparable: str


def compared_cells(settings: Settings, work: Sequence[Work], found: Sequence[BenchmarkRows]) -> list[ComparedCell]:
    """The cells of the paper whose benchmarks are reported, in the paper's order, then the overall scores."""
    rows = {(row.benchmark, row.table, row.name): (each, row) for each in found for row in each.rows}
    works = {each.name: each for each in work}
    cells: list[ComparedCell] = []
    for cell in PAPER_CELLS:
        if (key := (cell.benchmark, cell.table, cell.cell)) in rows:
            each, row = rows[key]
            paper = _percent(cell.flux, row.scale), _percent(cell.paper, row.scale)
            reasons = _comparable(settings, works[each.name], each, row, cell.caveat)
            cells.append(_cell(cell.column, row, *paper, reasons))
    for key, (each, row) in rows.items():
        known = {score.model: score for score in PUBLISHED if (score.benchmark, score.table, score.cell) == key}
        if known:
            shown = {model: f"{score.value:g}" for model, score in known.items()}
            reasons = _comparable(settings, works[each.name], each, row, "")
            title = f"{each.title} ({each.name}), {row.name}"
            cells.append(_cell(title, row, shown.get("FLUX.1-dev", ""), shown.get("the paper's model", ""), reasons))
    return cells


def _cell(title: str, row: CellRow, base: str, trained: str, comparable: str) -> ComparedCell:
    values = {side: by_protocol[PROTOCOL] for side, by_protocol in row.values.items() if PROTOCOL in by_protocol}
    key = (row.benchmark, row.table, row.name)
    return ComparedCell(title, key, row.scale, values, row.differences.get(PROTOCOL), base, trained, comparable)


def _percent(share: float, scale: Scale) -> str:
    return f"{100 * share:.1f}" if scale == "percent" else f"{share:.3f}"


def _comparable(settings: Settings, work: Work, rows: BenchmarkRows, row: CellRow, caveat: str) -> str:
    """Whether our cell compares with the published one, with the reasons."""
    cfg = settings.benchmark
    missing = [cell.missing / max(cell.missing + cell.denominator, 1e-9) for cell in _fixed(row)]
    judge = str(rows.judge.identity.get("model", "")).lower()
    conditions = Conditions(
        benchmark=work.name,
        own_world=not cfg.data,
        published_files=not work.benchmark.check(work.folder),
        all_prompts=not cfg.max_prompts,
        images_as_published=not cfg.images_per_prompt,
        published_judge=any(part in judge for part in PUBLISHED_JUDGES.get(work.name, ())),
        missing_share=max(missing, default=0.0),
    )
    return str(compare(conditions, caveat))


def _fixed(row: CellRow) -> list[CellValue]:
    return [by_protocol["fixed"] for by_protocol in row.values.values() if "fixed" in by_protocol]

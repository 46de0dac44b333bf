"""Curves of all variants and seeds -> a table and a chart a question, as Markdown and as one HTML page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import numpy as np

from actors.files import write_file
from conf import Settings
from conf.ablation import QUESTIONS, VARIANTS
from pipelines.common.charts import Series, line_chart
from pipelines.policy.metrics import EvaluationRow

Curve = Sequence[EvaluationRow]
COLOURS = ("#1f6feb", "#d1242f", "#1a7f37", "#9a6700")
HEADER = ("variant", "seeds", "training, s", "short", "long", "objects", "short, equal time", "long, equal time",
          "s to the same accuracy")  # fmt: skip
INTRODUCTION = """Relations drawn right on held-out prompts by the exact checker (moving average, no noise), mean ±
standard deviation over seeds. The first columns compare at equal updates: {iterations} policy versions. *Equal time* is
the training time of the question's fastest variant; *the same accuracy* the mean of short and long that all its
variants reached. The learning rate is constant{warmup}, so that a curve may be read at any point.
"""
STYLE = """body{font:16px system-ui;max-width:70em;margin:2em auto;padding:0 1em}table{border-collapse:collapse}
td,th{padding:.2em .7em;text-align:right;border-bottom:1px solid #ccc}td:first-child,th:first-child{text-align:left}
svg{max-width:44em;font-size:13px}.grid{stroke:#ddd}.line{fill:none;stroke-width:2}"""


@dataclass(frozen=True)
class Row:
    """One variant of one question. Each array holds a value a seed."""

    variant: str
    seconds: np.ndarray  # training time
    short: np.ndarray  # share of relations right after the last update
    long: np.ndarray
    objects: np.ndarray  # share of objects present, mean of short and long
    short_then: np.ndarray  # at equal time
    long_then: np.ndarray
    seconds_to_target: float  # of the mean curve; NaN if it never gets there


def accuracy(row: EvaluationRow) -> float:
    """Mean of the shares of relations right on short and on long prompts."""
    return (row.relation_accuracy_short + row.relation_accuracy_long) / 2


def mean_curve(curves: Sequence[Curve]) -> list[tuple[float, float]]:
    """(training seconds, accuracy), both averaged over seeds at the same policy version."""
    return [
        (float(np.mean([row.training_seconds for row in rows])), float(np.mean([accuracy(row) for row in rows])))
        for rows in zip(*curves, strict=True)
    ]


def compare(question: Sequence[str], curves: Mapping[str, Sequence[Curve]]) -> list[Row]:
    """One row a variant that has a finished run."""
    present = [variant for variant in question if curves.get(variant)]
    means = {variant: mean_curve(curves[variant]) for variant in present}
    time = min((points[-1][0] for points in means.values()), default=0.0)
    target = min((max(y for _, y in points) for points in means.values()), default=0.0)
    return [_row(variant, curves[variant], time, seconds_to(means[variant], target)) for variant in present]


def _row(variant: str, curves: Sequence[Curve], time: float, seconds_to_target: float) -> Row:
    def then(field: str) -> np.ndarray:
        return np.array([
            np.interp(time, [row.training_seconds for row in curve], [getattr(row, field) for row in curve])
            for curve in curves
        ])  # fmt: skip

    last = [curve[-1] for curve in curves]
    return Row(
        variant,
        np.array([row.training_seconds for row in last]),
        np.array([row.relation_accuracy_short for row in last]),
        np.array([row.relation_accuracy_long for row in last]),
        np.array([(row.object_accuracy_short + row.object_accuracy_long) / 2 for row in last]),
        then("relation_accuracy_short"),
        then("relation_accuracy_long"),
        seconds_to_target,
    )


def seconds_to(points: Sequence[tuple[float, float]], target: float) -> float:
    """When a curve first reaches `target`, between its points by a straight line; NaN if never."""
    before = points[0]
    for point in points:
        if point[1] >= target:
            rise = point[1] - before[1]
            return before[0] + (point[0] - before[0]) * ((target - before[1]) / rise if rise > 0 else 0.0)
        before = point
    return float("nan")


def cells(row: Row) -> list[str]:
    """A row as it is read."""

    def share(values: np.ndarray) -> str:
        return f"{values.mean():.1%} ± {values.std(ddof=len(values) > 1):.1%}"

    return [
        row.variant, str(len(row.seconds)), f"{row.seconds.mean():.0f}", share(row.short), share(row.long),
        share(row.objects), share(row.short_then), share(row.long_then), f"{row.seconds_to_target:.0f}",
    ]  # fmt: skip


def write_report(curves: Mapping[str, Sequence[Curve]], settings: Settings, folder: Path) -> Path:
    """Writes ablation.md and ablation.html, and returns the page."""
    versions = settings.policy.optimizer.warmup_iterations
    warmup = f" after a warm-up of {versions} versions" if versions > 1 else ""
    introduction = INTRODUCTION.format(iterations=settings.ablation.iterations, warmup=warmup)
    text, page = [f"# Ablation\n\n{introduction}"], [f"<h1>Ablation</h1><p>{escape(introduction)}</p>"]
    for title, question in QUESTIONS.items():
        rows = compare(question, curves)
        if len(rows) < 2:
            continue
        table = [HEADER, *map(cells, rows)]
        lines = ["| " + " | ".join(line) + " |" for line in table]
        text.append("\n".join([f"## {title}\n", lines[0], "|---" * len(HEADER) + "|", *lines[1:], ""]))
        page.append(f"<h2>{escape(title)}</h2>{_html_table(table)}{_chart(title, rows, curves)}")
    used = sorted({variant for question in QUESTIONS.values() for variant in question if curves.get(variant)})
    text.append("\n".join(["## Variants\n", *(f"- `{name}`: {_meaning(name)}" for name in used), ""]))
    page.append("<ul>" + "".join(f"<li>{name}: {escape(_meaning(name))}</li>" for name in used) + "</ul>")
    write_file(str(folder / "ablation.md"), "\n".join(text).encode())
    colours = "".join(f".c{i}{{stroke:{c};fill:{c}}}.name.c{i}{{stroke:none}}" for i, c in enumerate(COLOURS))
    style = f"{STYLE}{colours}.line{{fill:none}}"
    html = f"<!doctype html><meta charset=utf-8><title>Ablation</title><style>{style}</style>{''.join(page)}"
    write_file(str(folder / "ablation.html"), html.encode())
    return folder / "ablation.html"


def _meaning(variant: str) -> str:
    return ", ".join(VARIANTS[variant]) or "the run's own settings"


def _html_table(table: Sequence[Sequence[str]]) -> str:
    rows = ["".join(f"<td>{escape(cell)}</td>" for cell in line) for line in table]
    return "<table>" + "".join(f"<tr>{row}</tr>" for row in rows) + "</table>"


def _chart(title: str, rows: Sequence[Row], curves: Mapping[str, Sequence[Curve]]) -> str:
    series = [Series(row.variant, f"c{i}", tuple(mean_curve(curves[row.variant]))) for i, row in enumerate(rows)]
    return line_chart(f"{title}: relations right", series, "seconds of training", percent=True)

"""Compares the curves of all variants and seeds: a table and a chart for each question, as Markdown and as HTML."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import numpy as np

from actors.files import write_file
from conf import Settings
from conf.ablation import QUESTIONS, VARIANTS
from pipelines.common.charts import Series, line_chart
from pipelines.common.paths import RunPaths
from pipelines.policy.metrics import EvaluationRow

Curve = Sequence[EvaluationRow]
COLOURS = ("#1f6feb", "#d1242f", "#1a7f37", "#9a6700")
HEADER = (
    "variant",
    "seeds",
    "training, s",
    "short",
    "long",
    "objects",
    "short, equal time",
    "long, equal time",
    "s to same accuracy",
)
INTRODUCTION = """Fraction of the relations in held-out prompts that the exact checker finds right (images of the
moving average of the weights, sampled without noise): mean ± standard deviation over seeds. *Short* prompts have one
relation, *long* prompts have several; *objects* is the fraction of objects that are present. The first columns compare
all variants after {iterations} iterations. *Equal time* compares them at the training time of the fastest variant of
the question. *s to same accuracy* is the training time after which a variant reaches the accuracy (mean of short and
long) that all variants of the question reached. The learning rate is constant{warmup}, so any point of a curve may be
compared.
"""
HEAD = "<!doctype html><meta charset=utf-8><meta name=viewport content='width=device-width'><title>Ablation</title>"
NOTHING_TO_COMPARE = "Nothing can be compared yet: a question needs two variants with a finished run."
STYLE = """body{font:16px system-ui;max-width:70em;margin:2em auto;padding:0 1em}table{border-collapse:collapse}
td,th{padding:.2em .7em;text-align:right;border-bottom:1px solid #ccc}td:first-child,th:first-child{text-align:left}
svg{max-width:44em;font-size:13px}.grid{stroke:#ddd}.line{fill:none;stroke-width:2}"""


@dataclass(frozen=True)
class Comparison:
    """One variant in the table of one question. The arrays have one value for each seed."""

    variant: str
    seconds: np.ndarray  # training time
    short: np.ndarray  # fraction of relations correct after the last iteration
    long: np.ndarray
    objects: np.ndarray  # fraction of objects present, mean of short and long prompts
    short_at_equal_time: np.ndarray
    long_at_equal_time: np.ndarray
    seconds_to_target: float  # of the mean curve; NaN if it never reaches the target


def accuracy(row: EvaluationRow) -> float:
    """Mean of the fractions of relations correct on short and on long prompts."""
    return (row.relation_accuracy_short + row.relation_accuracy_long) / 2


def mean_curve(curves: Sequence[Curve]) -> list[tuple[float, float]]:
    """(training seconds, accuracy) at each evaluated policy version, both averaged over seeds."""
    return [
        (float(np.mean([row.training_seconds for row in rows])), float(np.mean([accuracy(row) for row in rows])))
        for rows in zip(*curves, strict=True)
    ]


def compare(question: Sequence[str], curves: Mapping[str, Sequence[Curve]]) -> list[Comparison]:
    """Compares the variants of a question that have a finished run."""
    present = [variant for variant in question if curves.get(variant)]
    means = {variant: mean_curve(curves[variant]) for variant in present}
    equal_time = min((points[-1][0] for points in means.values()), default=0.0)
    target = min((max(y for _, y in points) for points in means.values()), default=0.0)
    return [
        _comparison(variant, curves[variant], equal_time, seconds_to(means[variant], target)) for variant in present
    ]


def _comparison(variant: str, curves: Sequence[Curve], equal_time: float, seconds_to_target: float) -> Comparison:
    def at_equal_time(value: Callable[[EvaluationRow], float]) -> np.ndarray:
        return np.array(
            [
                np.interp(equal_time, [row.training_seconds for row in curve], [value(row) for row in curve])
                for curve in curves
            ]
        )

    last = [curve[-1] for curve in curves]
    return Comparison(
        variant,
        seconds=np.array([row.training_seconds for row in last]),
        short=np.array([row.relation_accuracy_short for row in last]),
        long=np.array([row.relation_accuracy_long for row in last]),
        objects=np.array([(row.object_accuracy_short + row.object_accuracy_long) / 2 for row in last]),
        short_at_equal_time=at_equal_time(lambda row: row.relation_accuracy_short),
        long_at_equal_time=at_equal_time(lambda row: row.relation_accuracy_long),
        seconds_to_target=seconds_to_target,
    )


def seconds_to(points: Sequence[tuple[float, float]], target: float) -> float:
    """When a curve of (seconds, accuracy) first reaches `target`, by linear interpolation; NaN if it never does."""
    before = points[0]
    for point in points:
        if point[1] >= target:
            rise = point[1] - before[1]
            return before[0] + (point[0] - before[0]) * ((target - before[1]) / rise if rise > 0 else 0.0)
        before = point
    return float("nan")


def cells(row: Comparison) -> list[str]:
    """The cells of a table row, in the order of HEADER."""

    def mean_and_std(values: np.ndarray) -> str:
        return f"{values.mean():.1%} ± {values.std(ddof=len(values) > 1):.1%}"

    fractions = (row.short, row.long, row.objects, row.short_at_equal_time, row.long_at_equal_time)
    return [
        row.variant,
        str(len(row.seconds)),
        f"{row.seconds.mean():.0f}",
        *map(mean_and_std, fractions),
        f"{row.seconds_to_target:.0f}",
    ]


def write_report(curves: Mapping[str, Sequence[Curve]], settings: Settings, paths: RunPaths) -> Path:
    """Writes the tables as Markdown and the report as HTML. Returns the path of the HTML file."""
    warmup_iterations = settings.policy.optimizer.warmup_iterations
    warmup = f" after a warm-up of {warmup_iterations} iterations" if warmup_iterations > 1 else ""
    introduction = INTRODUCTION.format(iterations=settings.ablation.iterations, warmup=warmup)
    text, page = [f"# Ablation\n\n{introduction}"], [f"<h1>Ablation</h1><p>{escape(introduction)}</p>"]
    for title, question in QUESTIONS.items():
        rows = compare(question, curves)
        if len(rows) < 2:  # nothing to compare
            continue
        table = [HEADER, *map(cells, rows)]
        text.append(_markdown_table(title, table))
        page.append(f"<h2>{escape(title)}</h2>{_html_table(table)}{_chart(title, rows, curves)}")
    if len(text) == 1:
        text.append(f"{NOTHING_TO_COMPARE}\n")
        page.append(f"<p>{NOTHING_TO_COMPARE}</p>")
    finished = sorted({variant for question in QUESTIONS.values() for variant in question if curves.get(variant)})
    text.append("\n".join(["## Finished variants\n", *(f"- `{name}`: {_overrides(name)}" for name in finished), ""]))
    rows = "".join(
        f"<li><b>{escape(name)}</b>, {len(curves[name])} seeds: {escape(_overrides(name))}</li>" for name in finished
    )
    page.append(f"<h2>Finished variants</h2>{f'<ul>{rows}</ul>' if rows else '<p>none</p>'}")
    write_file(str(paths.ablation_table), "\n".join(text).encode())
    write_file(str(paths.ablation_report), _html_page("".join(page)).encode())
    return paths.ablation_report


def _overrides(variant: str) -> str:
    """The settings that a variant changes."""
    return ", ".join(VARIANTS[variant]) or "the run's own settings"


def _markdown_table(title: str, table: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(line) + " |" for line in table]
    return "\n".join([f"## {title}\n", lines[0], "|---" * len(HEADER) + "|", *lines[1:], ""])


def _html_table(table: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(cell)}</th>" for cell in table[0])
    rows = [head, *("".join(f"<td>{escape(cell)}</td>" for cell in line) for line in table[1:])]
    return "<table>" + "".join(f"<tr>{row}</tr>" for row in rows) + "</table>"


def _html_page(body: str) -> str:
    colours = "".join(f".c{i}{{stroke:{c};fill:{c}}}.name.c{i}{{stroke:none}}" for i, c in enumerate(COLOURS))
    style = f"{STYLE}{colours}.line{{fill:none}}"
    return f"{HEAD}<style>{style}</style>{body}"


def _chart(title: str, rows: Sequence[Comparison], curves: Mapping[str, Sequence[Curve]]) -> str:
    series = [Series(row.variant, f"c{i}", tuple(mean_curve(curves[row.variant]))) for i, row in enumerate(rows)]
    return line_chart(f"{title}: relations correct", series, "seconds of training", percent=True)

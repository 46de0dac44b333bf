"""The result of `reward evaluate`: text for the terminal, and one self-contained HTML page."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from pipelines.common.charts import Series, line_chart
from pipelines.common.intervals import Accuracy, wilson
from pipelines.reward.accuracy import Evaluation, ModelReport
from pipelines.reward.calibration import Bin, Calibration, merged
from pipelines.reward.paper import TABLE_1, PaperRow

SUBSETS = {
    "1 changed relation": "one_change",
    "2-3 changed relations": "more_changes",
    "all changed relations": "relations",
    "missing, doubled, recoloured": "corrupted",
    "images of the base policy": "generated",
    "other image, perturbed prompt": "perturbed_prompt",
    "all pairs": "overall",
    "benchmark, 1 changed relation": "benchmark_one_change",
    "benchmark, 2-3 changed": "benchmark_more_changes",
    "benchmark": "benchmark",
}
MIN_PAIRS = 20
"""Pairs of a point in the reliability diagram at least."""
TABLE_COLUMNS = ("one_change", "more_changes", "relations")
"""Columns of the paper's Table 1, of all held-out pairs."""
BENCHMARK_COLUMNS = ("benchmark_one_change", "benchmark_more_changes", "benchmark")
"""The same columns of the split benchmark, which are shown if there is one."""


def table(evaluation: Evaluation) -> str:
    """The whole evaluation as aligned text."""
    ours = evaluation.models[0]
    lines = ["held-out pairs in the right order (95 % interval)"]
    lines += [_row(name, accuracy) for name, accuracy in _by_subset(ours).items()]
    lines += [_row(f"changed: {word}", accuracy) for word, accuracy in ours.by_relation.items()]
    if len(ours.by_generator) > 1:
        lines += [_row(f"images of {maker}", accuracy) for maker, accuracy in ours.by_generator.items()]
    lines += [_row(f"hard negative: {kind}", accuracy) for kind, accuracy in evaluation.hard_negatives.items()]
    for calibration in evaluation.calibrations:
        lines.append(
            f"calibration error of P from {calibration.probability}: {calibration.error:.3f}; "
            f"{calibration.error_scaled:.3f} with temperature {calibration.temperature:.2f}, fitted on the other "
            "half of the pairs"
        )
    if evaluation.uncertainty is not None:
        lines += [_row(f"sigma {g.low:.3f} to {g.high:.3f}", g.accuracy) for g in evaluation.uncertainty.groups]
        lines.append(evaluation.uncertainty.meaning)
    name = "Table 1" if ours.accuracies.benchmark is None else "Table 1, benchmark"
    lines += ["", f"{name:<18}{'1 change':>10}{'2-3':>8}{'overall':>9}   paper: {'1':>5}{'2-3':>7}{'overall':>9}"]
    lines += [_table_1_row(model) for model in evaluation.models]
    measured = {model.name.lower() for model in evaluation.models}
    lines += [
        f"{row.model:<18}{'-':>10}{'-':>8}{'-':>9}{_published(row)}"
        for row in TABLE_1
        if row.model.lower() not in measured
    ]
    lines += [str(each) for each in evaluation.failed]
    for test in evaluation.tests:
        lines.append(
            f"{test.name} - {test.other}: {test.difference:+.1%}; pairs that only one model orders correctly: "
            f"{test.only_first} and {test.only_other}; McNemar's exact p = {test.p:.2g}"
        )
    lines += [orders_line(model) for model in evaluation.models if model.one_order is not None]
    for model in evaluation.models:
        if model.truncated or model.unanswered:
            lines.append(
                f"{model.name}: {model.truncated} prompts truncated, {model.unanswered} pairs without an answer"
            )
    return "\n".join(lines)


def orders_line(model: ModelReport) -> str:
    """What a judge's position bias costs: the strict accuracy of the table, and the mean over both orders."""
    overall = model.accuracies.overall
    strict = f"{overall.accuracy:.1%}" if overall else "-"
    return (
        f"{model.name} was asked in both orders, all pairs: {strict} if contradicting answers count as wrong (as "
        f"above), {model.one_order or 0.0:.1%} in the mean over orders (one question a pair, as often published)"
    )


def table_columns(model: ModelReport) -> tuple[str, ...]:
    """The columns of Table 1: of the split benchmark if there is one, else of all held-out pairs."""
    return TABLE_COLUMNS if model.accuracies.benchmark is None else BENCHMARK_COLUMNS


def accuracy_rows(report: ModelReport) -> list[tuple[str, str]]:
    """The rows of a model card's accuracy table: (kind of pairs, accuracy with its interval)."""
    return [
        (name, f"{accuracy.accuracy:.1%} ({accuracy.low:.1%} to {accuracy.high:.1%}), {accuracy.pairs} pairs")
        for name, accuracy in _by_subset(report).items()
    ]


def render_report(evaluation: Evaluation) -> str:
    """The page: tables, and a reliability diagram before and after temperature scaling."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html").render(
        evaluation=evaluation,
        ours=evaluation.models[0],
        subsets=SUBSETS,
        columns=table_columns(evaluation.models[0]),
        paper={row.model.lower(): row for row in TABLE_1},
        charts=[(calibration, Markup(reliability_diagram(calibration))) for calibration in evaluation.calibrations],
        min_pairs=MIN_PAIRS,
        orders=[orders_line(model) for model in evaluation.models if model.one_order is not None],
    )


def reliability_diagram(calibration: Calibration) -> str:
    """Accuracy over confidence from 1/2 to 1, with 95 % intervals, as inline SVG. Small bins are put together."""
    series = [
        Series("calibrated", "objects", ((0.5, 0.5), (1.0, 1.0))),
        _curve("as scored", "policy", calibration.bins),
        _curve("scaled", "short", calibration.bins_scaled),
    ]
    return line_chart(
        "Reliability of P(w beats l)", series, "confidence in the preferred image", percent=True, x_from=0.5
    )


def _curve(name: str, style: str, bins: tuple[Bin, ...]) -> Series:
    shown = merged(bins, MIN_PAIRS)
    intervals = [wilson(np.arange(each.pairs) < round(each.accuracy * each.pairs)) for each in shown]
    return Series(
        name,
        style,
        tuple((each.confidence, each.accuracy) for each in shown),
        tuple((interval.low, interval.high) for interval in intervals if interval),
    )


def _by_subset(report: ModelReport) -> dict[str, Accuracy]:
    """Name of a subset of pairs -> accuracy, for the subsets that are not empty."""
    accuracies = vars(report.accuracies)
    return {name: accuracies[key] for name, key in SUBSETS.items() if accuracies[key]}


def _row(name: str, accuracy: Accuracy) -> str:
    share, interval = f"{accuracy.accuracy:6.1%}", f"[{accuracy.low:.1%}, {accuracy.high:.1%}]"
    return f"{name:<30}  {share}  {interval}  {accuracy.right}/{accuracy.pairs}"


def _table_1_row(model: ModelReport) -> str:
    accuracies: list[Accuracy | None] = [vars(model.accuracies)[key] for key in table_columns(model)]
    cells = [f"{accuracy.accuracy:.1%}" if accuracy else "-" for accuracy in accuracies]
    ours = "".join(f"{cell:>{width}}" for cell, width in zip(cells, (10, 8, 9), strict=True))
    row = next((row for row in TABLE_1 if row.model.lower() == model.name.lower()), None)
    return f"{model.name:<18}{ours}{_published(row) if row else ''}"


def _published(row: PaperRow) -> str:
    return f"   {'':>6} {row.one_change:>5.1%}{row.more_changes:>7.1%}{row.overall:>9.1%}"

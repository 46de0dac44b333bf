"""`reward evaluate` on the terminal and as one self-contained HTML page."""

from __future__ import annotations

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from pipelines.common.charts import Series, line_chart
from pipelines.common.intervals import Accuracy
from pipelines.reward.accuracy import Evaluation, ModelReport
from pipelines.reward.calibration import Bin, Calibration
from pipelines.reward.paper import TABLE_1, PaperRow

SUBSETS = {
    "1 changed relation": "one_change",
    "2-3 changed relations": "more_changes",
    "all changed relations": "relations",
    "missing, doubled, recoloured": "exploit",
    "drawn by the base policy": "generated",
    "other image, perturbed prompt": "perturbed_prompt",
    "all pairs": "overall",
}
TABLE_COLUMNS = ("one_change", "more_changes", "relations")  # as the paper's Table 1


def table(evaluation: Evaluation) -> str:
    """All that was found, as aligned text."""
    ours = evaluation.models[0]
    lines = ["held-out pairs in the right order (95 % interval)"]
    lines += [_row(name, found) for name, key in SUBSETS.items() if (found := getattr(ours.accuracies, key))]
    lines += [_row(f"changed: {word}", accuracy) for word, accuracy in ours.by_relation.items()]
    for one in evaluation.calibrations:
        lines.append(
            f"calibration of P from {one.probability}: error {one.error:.3f}; {one.error_scaled:.3f} with temperature "
            f"{one.temperature:.2f}, fitted on the other half of the pairs"
        )
    lines += ["", f"{'Table 1':<18}{'1 change':>10}{'2-3':>8}{'overall':>9}   paper: {'1':>5}{'2-3':>7}{'overall':>9}"]
    lines += [_table_1_row(model) for model in evaluation.models]
    measured = {model.name.lower() for model in evaluation.models}
    lines += [
        f"{row.model:<18}{'-':>10}{'-':>8}{'-':>9}{_published(row)}"
        for row in TABLE_1
        if row.model.lower() not in measured
    ]
    for test in evaluation.tests:
        lines.append(
            f"{test.name} - {test.other}: {test.difference:+.1%}, right alone {test.only_first} against "
            f"{test.only_other}, McNemar's exact p = {test.p:.2g}"
        )
    for model in evaluation.models:
        if model.truncated or model.unanswered:
            lines.append(f"{model.name}: {model.truncated} prompts not read to their end, {model.unanswered} no answer")
    return "\n".join(lines)


def accuracy_rows(report: ModelReport) -> list[tuple[str, str]]:
    """What a model card tells of held-out accuracy: which pairs, and the share with its interval."""
    found = {name: getattr(report.accuracies, key) for name, key in SUBSETS.items()}
    return [
        (name, f"{one.accuracy:.1%} ({one.low:.1%} to {one.high:.1%}), {one.pairs} pairs")
        for name, one in found.items()
        if one
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
        columns=TABLE_COLUMNS,
        paper={row.model.lower(): row for row in TABLE_1},
        charts=[(one, Markup(reliability_diagram(one))) for one in evaluation.calibrations],
    )


def reliability_diagram(calibration: Calibration) -> str:
    """Accuracy over confidence, both beyond 1/2, as inline SVG."""
    series = [
        Series("calibrated", "objects", ((0.5, 0.5), (1.0, 1.0))),
        Series("as scored", "policy", _curve(calibration.bins)),
        Series("scaled", "short", _curve(calibration.bins_scaled)),
    ]
    return line_chart(
        "Reliability of P(w beats l)", series, "confidence in the preferred image", percent=True, x_from=0.5
    )


def _curve(bins: tuple[Bin, ...]) -> tuple[tuple[float, float], ...]:
    return tuple((one.confidence, one.accuracy) for one in bins)


def _row(name: str, found: Accuracy) -> str:
    return f"{name:<30}  {found.accuracy:6.1%}  [{found.low:.1%}, {found.high:.1%}]  {found.right}/{found.pairs}"


def _table_1_row(model: ModelReport) -> str:
    found = [getattr(model.accuracies, key) for key in TABLE_COLUMNS]
    ours = "".join(
        f"{one.accuracy:>{w}.1%}" if one else f"{'-':>{w}}" for one, w in zip(found, (10, 8, 9), strict=True)
    )
    row = next((row for row in TABLE_1 if row.model.lower() == model.name.lower()), None)
    return f"{model.name:<18}{ours}{_published(row) if row else ''}"


def _published(row: PaperRow) -> str:
    return f"   {'':>6} {row.one_change:>5.1%}{row.more_changes:>7.1%}{row.overall:>9.1%}"

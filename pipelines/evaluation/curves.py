"""The charts of a training run in the report."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from pipelines.common.charts import Series, line_chart
from pipelines.policy.watch import MAX_FALL, fall

CURVE_STYLES = ("long", "short", "objects", "fourth", "fifth", "sixth")
"""CSS classes of the lines of a chart with many of them."""

JsonRow = Mapping[str, Any]


@dataclass(frozen=True)
class Figure:
    """A chart with its caption."""

    svg: Markup
    caption: str


def training_curves(training: Sequence[JsonRow], held_out: Sequence[JsonRow]) -> list[Figure]:
    """Returns charts of held-out accuracy and of the reward over training time; [] if there are no logs."""
    accuracy = (
        Series("short prompts", "short", _curve(held_out, "relation_accuracy_short")),
        Series("long prompts", "long", _curve(held_out, "relation_accuracy_long")),
        Series("objects", "objects", _curve(held_out, "object_accuracy_long")),
    )
    reward = (
        Series("training", "policy", _curve(training, "reward_mean")),
        Series("held out", "short", _curve(held_out, "reward_mean")),
    )
    figures = (
        _figure(
            "Accuracy on held-out prompts during training",
            accuracy,
            "Share of relations that are correct in images of held-out prompts (short: one relation, long: two or "
            "more), and share of objects that are present in images of the long ones.",
            percent=True,
        ),
        _figure(
            "Reward during training",
            reward,
            "Mean reward of the training images, which are sampled with noise, and of images of held-out prompts, "
            "which are sampled without noise.",
            percent=False,
        ),
        _figure(
            "What the trained reward does not see, during training",
            _watched_curves(held_out),
            f"Change since the first evaluation, in standard deviations of the base's images. A fall by more than "
            f"{MAX_FALL:g} while the trained reward rises is reported.",
            percent=False,
        ),
    )
    return [figure for figure in figures if figure]


def _watched_curves(held_out: Sequence[JsonRow]) -> tuple[Series, ...]:
    """Each measure's change since the first evaluation, in standard deviations of the base's images."""
    first = held_out[0]["measures"] if held_out else {}
    curves: list[Series] = []
    for number, (name, before) in enumerate(first.items()):
        known = [row for row in held_out if row["measures"].get(name, {}).get("mean") is not None]
        points = tuple((row["training_seconds"] / 60, -fall(before, row["measures"][name])) for row in known)
        finite = tuple(point for point in points if math.isfinite(point[1]))
        curves.append(Series(name.replace("_", " "), CURVE_STYLES[number % len(CURVE_STYLES)], finite))
    return tuple(curves)


def _figure(title: str, series: Sequence[Series], caption: str, percent: bool) -> Figure | None:
    """Returns a chart of the series that have points; None if none has."""
    drawn = [line for line in series if line.points]
    if not drawn:
        return None
    return Figure(Markup(line_chart(title, drawn, "minutes of training", percent)), caption)


def _curve(rows: Sequence[JsonRow], key: str) -> tuple[tuple[float, float], ...]:
    return tuple((row["training_seconds"] / 60, row[key]) for row in rows if row.get(key) is not None)

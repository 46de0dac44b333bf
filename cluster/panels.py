"""The parts of the Grafana dashboard, and the names of the series that a run exports."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal

from pipelines.policy.metrics import EvaluationRow, IterationRow

Unit = Literal["short", "s", "percentunit", "sci", "bytes"]
"""Grafana's names of units."""


@dataclass(frozen=True)
class Query:
    """One PromQL query."""

    expression: str
    legend: str
    """Name of its lines; {{label}} stands for the value of a label."""


@dataclass(frozen=True)
class Panel:
    """One graph."""

    title: str
    description: str
    """What the graph shows, and which values are good."""
    queries: tuple[Query, ...]
    unit: Unit = "short"
    limit: float | None = None
    """Value of a line across the graph."""


@dataclass(frozen=True)
class Question:
    """One row of the dashboard."""

    text: str
    panels: tuple[Panel, ...]


def policy(metric: str, labels: str = "", part: str = "") -> str:
    """The series of a field of IterationRow, or of a statistic of it if it holds several of each reward.

    Raises ValueError if there is no such field.
    """
    return _series("policy", metric, IterationRow, labels, part)


def evaluation(metric: str, labels: str = "", part: str = "") -> str:
    """The series of a field of EvaluationRow, see `policy`. Raises ValueError if there is no such field."""
    return _series("evaluation", metric, EvaluationRow, labels, part)


def _series(
    family: Literal["policy", "evaluation"],
    metric: str,
    row: type[IterationRow] | type[EvaluationRow],
    labels: str,
    part: str,
) -> str:
    if metric not in {field.name for field in fields(row)}:
        raise ValueError(f"no run exports {metric}: {row.__name__} in pipelines/policy/metrics.py has no such field")
    return f"ray_spatialt2i_{family}_{metric}" + (f"_{part}" if part else "") + (f"{{{labels}}}" if labels else "")

"""The dashboard is valid against Grafana's published schema."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.grafana_schema import schema_errors

FILE = Path(__file__).parents[2] / "cluster" / "grafana_dashboard.json"
Change = Callable[[dict[str, Any]], object]


def dashboard() -> dict[str, Any]:
    return json.loads(FILE.read_text())


def graph(changed: dict[str, Any]) -> dict[str, Any]:
    return next(panel for panel in changed["panels"] if panel["type"] == "timeseries")


def test_the_dashboard_has_only_fields_and_values_of_the_schema() -> None:
    assert schema_errors(dashboard()) == []


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda changed: changed.update(wrong=1), ".wrong is no field"),
        (lambda changed: changed.update(title=3), ".title = 3"),
        (lambda changed: changed["templating"]["list"][1].update(multy=True), ".multy is no field"),
        (lambda changed: changed["templating"]["list"][1].update(refresh=7), ".refresh = 7"),
        (lambda changed: graph(changed)["gridPos"].update(w="6"), ".w = '6'"),
        (lambda changed: graph(changed)["targets"][0].update(exprr="up"), ".exprr is no field"),
        (lambda changed: graph(changed)["targets"][0].update(expr=None), ".expr"),
        (lambda changed: graph(changed)["options"]["legend"].update(placement="botom"), ".placement = 'botom'"),
        (lambda changed: graph(changed)["fieldConfig"]["defaults"]["custom"].update(lineWith=2), ".lineWith is no"),
    ],
)  # fmt: skip
def test_a_wrong_field_or_value_is_found(change: Change, expected: str) -> None:
    changed = dashboard()
    change(changed)
    (error,) = schema_errors(changed)
    assert expected in error

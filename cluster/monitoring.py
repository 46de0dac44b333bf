"""Prometheus and Grafana: scrape settings, alert rules and the dashboard, for machines and for Kubernetes."""

from __future__ import annotations

import json
from itertools import count
from typing import Any

from cluster.alerts import rules
from cluster.kuberay import Manifest
from cluster.panels import Panel, Question, questions
from cluster.values import Values
from conf import Settings

UID = "spatialt2i"
WIDTH, HEIGHT = 6, 8  # of a panel: four in a row of Grafana's 24 columns
METRICS_PORT = "metrics"
"""Name that KubeRay gives to the port at which a pod's Ray tells its metrics."""


def prometheus(values: Values) -> dict[str, Any]:
    """`prometheus.yml` for a Prometheus beside the head: Ray keeps the list of nodes to ask in a file."""
    targets = f"{values.ray_folder}/prom_metrics_service_discovery.json"
    return {
        "global": {"scrape_interval": "10s", "evaluation_interval": "10s"},
        "rule_files": ["alerts.yaml"],
        "scrape_configs": [{"job_name": "ray", "file_sd_configs": [{"files": [targets]}]}],
    }


def kubernetes(settings: Settings, values: Values) -> list[Manifest]:
    """For the Prometheus operator and Grafana's sidecar: what to scrape, the rules, and the dashboard."""
    pods = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PodMonitor",
        "metadata": {"name": f"{values.name}-ray", "labels": {"release": values.prometheus}},
        "spec": {
            "jobLabel": "ray.io/cluster",
            "selector": {"matchExpressions": [{"key": "ray.io/cluster", "operator": "Exists"}]},
            "podTargetLabels": ["ray.io/cluster"],
            "podMetricsEndpoints": [{"port": METRICS_PORT, "interval": "10s"}],
        },
    }
    alarms = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": f"{values.name}-alerts", "labels": {"release": values.prometheus}},
        "spec": rules(settings),
    }
    board = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": f"{values.name}-dashboard", "labels": {"grafana_dashboard": "1"}},
        "data": {"spatialt2i.json": dashboard_text(settings)},
    }
    return [pods, alarms, board]


def dashboard_text(settings: Settings) -> str:
    """The dashboard as Grafana reads it."""
    return json.dumps(dashboard(settings), indent=1, ensure_ascii=False) + "\n"


def dashboard(settings: Settings) -> dict[str, Any]:
    """A row a question. Data source and runs are chosen at the top."""
    numbers = count(1)
    panels = [
        part
        for row, question in enumerate(questions(settings))
        for part in _row(question, row * (HEIGHT + 1), [next(numbers) for _ in range(len(question.panels) + 1)])
    ]
    return {
        "uid": UID,
        "title": "SpatialT2I",
        "tags": ["ray", "spatialt2i"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": [_data_sources(), _runs()]},
        "panels": panels,
    }


def _data_sources() -> dict[str, Any]:
    return {"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus", "refresh": 1}


def _runs() -> dict[str, Any]:
    return {
        "name": "run",
        "label": "Run",
        "type": "query",
        "datasource": {"type": "prometheus", "uid": "${datasource}"},
        "query": {"query": "label_values(ray_spatialt2i_policy_iteration, run)", "refId": "runs"},
        "refresh": 2,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": ["All"], "value": ["$__all"]},
    }


def _row(question: Question, top: int, numbers: list[int]) -> list[dict[str, Any]]:
    heading = {
        "type": "row", "id": numbers[0], "title": question.text, "collapsed": False, "panels": [],
        "gridPos": {"x": 0, "y": top, "w": 4 * WIDTH, "h": 1},
    }  # fmt: skip
    return [
        heading,
        *(
            _panel(panel, number, place * WIDTH, top + 1)
            for place, (panel, number) in enumerate(zip(question.panels, numbers[1:], strict=True))
        ),
    ]


def _panel(panel: Panel, number: int, left: int, top: int) -> dict[str, Any]:
    source = {"type": "prometheus", "uid": "${datasource}"}
    steps = [{"color": "green", "value": None}]
    if panel.limit is not None:
        steps.append({"color": "red", "value": panel.limit})
    return {
        "type": "timeseries",
        "id": number,
        "title": panel.title,
        "description": panel.meaning,
        "datasource": source,
        "gridPos": {"x": left, "y": top, "w": WIDTH, "h": HEIGHT},
        "fieldConfig": {
            "defaults": {
                "unit": panel.unit,
                "thresholds": {"mode": "absolute", "steps": steps},
                "custom": {"thresholdsStyle": {"mode": "off" if panel.limit is None else "line"}},
            },
            "overrides": [],
        },
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}},
        "targets": [
            {"refId": chr(ord("A") + place), "expr": query.expression, "legendFormat": query.legend,
             "datasource": source}
            for place, query in enumerate(panel.queries)
        ],
    }  # fmt: skip

"""Prometheus and Grafana: scrape settings, alert rules and the dashboard, for machines and for Kubernetes."""

from __future__ import annotations

import json
from itertools import count
from typing import Any

from cluster.alerts import rules
from cluster.panels import Panel, Question
from cluster.pods import Manifest
from cluster.questions import questions
from cluster.values import Values
from conf import Settings

UID = "spatialt2i"
WIDTH, HEIGHT = 6, 8
"""Size of a panel. Grafana has 24 columns, so four panels fit in a row. More than four are narrower."""
METRICS_PORT = "metrics"
"""KubeRay's name of the port at which a pod's Ray serves its metrics."""


def prometheus(values: Values) -> dict[str, Any]:
    """`prometheus.yml` for a Prometheus on the head, where Ray keeps the list of nodes to scrape in a file."""
    targets = f"{values.ray_folder}/prom_metrics_service_discovery.json"
    return {
        "global": {"scrape_interval": "10s", "evaluation_interval": "10s"},
        "rule_files": ["alerts.yaml"],
        "alerting": {"alertmanagers": [{"static_configs": [{"targets": [values.alertmanager]}]}]},
        "scrape_configs": [{"job_name": "ray", "file_sd_configs": [{"files": [targets]}]}],
    }


def kubernetes(settings: Settings, values: Values) -> list[Manifest]:
    """Manifests for the Prometheus operator and Grafana's sidecar: what to scrape, the rules, and the dashboard."""
    pod_monitor = {
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
    alert_rules = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": f"{values.name}-alerts", "labels": {"release": values.prometheus}},
        "spec": rules(settings),
    }
    config_map = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": f"{values.name}-dashboard", "labels": {"grafana_dashboard": "1"}},
        "data": {"spatialt2i.json": dashboard_text(settings)},
    }
    return [pod_monitor, alert_rules, config_map]


def dashboard_text(settings: Settings) -> str:
    """The dashboard as JSON text for Grafana."""
    return json.dumps(dashboard(settings), indent=1, ensure_ascii=False) + "\n"


def dashboard(settings: Settings) -> dict[str, Any]:
    """The dashboard: one row for each question. Data source, clusters and runs are selected at the top."""
    panel_ids = count(1)
    panels = [
        panel
        for row, question in enumerate(questions(settings))
        for panel in _row(question, row * (HEIGHT + 1), [next(panel_ids) for _ in range(len(question.panels) + 1)])
    ]
    return {
        "uid": UID,
        "title": "SpatialT2I",
        "tags": ["ray", "spatialt2i"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {
            "list": [
                _data_source_variable(),
                _variable("cluster", "Ray cluster", "label_values(ray_node_mem_total, SessionName)"),
                _variable("run", "Run", "label_values(ray_spatialt2i_policy_iteration, run)"),
            ]
        },
        "panels": panels,
    }


def _data_source_variable() -> dict[str, Any]:
    return {"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus", "refresh": 1}


def _variable(name: str, label: str, query: str) -> dict[str, Any]:
    """A choice of several values of a label, all of them at first."""
    return {
        "name": name,
        "label": label,
        "type": "query",
        "datasource": {"type": "prometheus", "uid": "${datasource}"},
        "query": {"query": query, "refId": name},
        "refresh": 2,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": ["All"], "value": ["$__all"]},
    }


def _row(question: Question, top: int, panel_ids: list[int]) -> list[dict[str, Any]]:
    """The heading of a row and its panels. `panel_ids` has one id for each of them."""
    heading = {
        "type": "row",
        "id": panel_ids[0],
        "title": question.text,
        "collapsed": False,
        "panels": [],
        "gridPos": {"x": 0, "y": top, "w": 4 * WIDTH, "h": 1},
    }
    width = min(WIDTH, 4 * WIDTH // len(question.panels))
    panels = zip(question.panels, panel_ids[1:], strict=True)
    return [
        heading,
        *(_panel(panel, panel_id, column * width, top + 1, width) for column, (panel, panel_id) in enumerate(panels)),
    ]


def _panel(panel: Panel, panel_id: int, left: int, top: int, width: int) -> dict[str, Any]:
    source = {"type": "prometheus", "uid": "${datasource}"}
    thresholds: list[dict[str, str | float | None]] = [{"color": "green", "value": None}]
    if panel.limit is not None:
        thresholds.append({"color": "red", "value": panel.limit})
    return {
        "type": "timeseries",
        "id": panel_id,
        "title": panel.title,
        "description": panel.description,
        "datasource": source,
        "gridPos": {"x": left, "y": top, "w": width, "h": HEIGHT},
        "fieldConfig": {
            "defaults": {
                "unit": panel.unit,
                "thresholds": {"mode": "absolute", "steps": thresholds},
                "custom": {"thresholdsStyle": {"mode": "off" if panel.limit is None else "line"}},
            },
            "overrides": [],
        },
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}},
        "targets": [
            {
                "refId": chr(ord("A") + number),
                "expr": query.expression,
                "legendFormat": query.legend,
                "datasource": source,
            }
            for number, query in enumerate(panel.queries)
        ],
    }

"""Dashboard and alerts ask only for what a real run exports, and every alert says what to do."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
from collections import defaultdict
from pathlib import Path

import pytest
import ray
import requests
import yaml
from prometheus_client.parser import text_string_to_metric_families

from cluster.alerts import alerts, rules
from cluster.monitoring import dashboard
from cluster.panels import policy, questions
from conf import load
from pipelines.policy.stage import run_policy
from tests.tiny_reward import save_tiny_vlm, tiny_spatialscore

FLUX_DEV = load("flux_dev")
EXPRESSIONS = {
    f"{question.text} {panel.title}: {query.legend}": query.expression
    for question in questions(FLUX_DEV)
    for panel in question.panels
    for query in panel.queries
} | {alert.name: alert.expression for alert in alerts(FLUX_DEV)}
SERIES = re.compile(r"\b(ray_\w+)(?:\{([^}]*)\})?")
ONLY_WITH_GPUS = 'sum(ray_resources{Name="GPU"}) by (State)'
Exported = dict[str, dict[str, set[str]]]  # metric -> label -> its values


@pytest.fixture(scope="module")
def exported(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """What Ray's agent tells Prometheus while two versions of a policy are trained on a real pool of SpatialScore."""
    folder = tmp_path_factory.mktemp("measured")
    save_tiny_vlm(folder / "vlm")
    tiny_spatialscore(folder / "vlm").save_pretrained(folder / "model")
    run_policy(load("scenes", [
        f"run_dir={folder}/run", f"pool.model={folder}/model", "pool.unexamined=true", "policy.iterations=2",
        "policy.prompts_per_step=2", "policy.group_size=4", "policy.top_k=1", "policy.steps=3",
        "policy.window=1", "policy.replay_rows=4", "policy.evaluate_every=2", "policy.evaluate_prompts=4",
        "policy.rollout_actors=1", "policy.learner_threads=1",
    ]), say=lambda line: None)  # fmt: skip
    last = policy("iteration")
    deadline = time.monotonic() + 120
    found: Exported = {}
    while last not in found and time.monotonic() < deadline:  # Ray sends what it measured every few seconds
        time.sleep(1)
        found = scrape()
    return found


def scrape() -> Exported:
    node = ray.nodes()[0]
    address = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    found: Exported = defaultdict(lambda: defaultdict(set))
    text = requests.get(address, timeout=60).text
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            for label, value in {"": "", **sample.labels}.items():
                found[sample.name][label].add(value)
    return found


@pytest.mark.ray
@pytest.mark.parametrize("name", EXPRESSIONS)
def test_what_a_query_asks_for_is_exported(exported: Exported, name: str) -> None:
    expression = EXPRESSIONS[name]
    asked = SERIES.findall(expression)
    assert asked
    for metric, selector in asked:
        assert metric in exported, f"no run exports {metric}"
        for label, operator, value in re.findall(r'(\w+)(=~|=)"([^"]*)"', selector):
            assert label in exported[metric], f"{metric} has no label {label}"
            if operator == "=" and expression != ONLY_WITH_GPUS:
                assert value in exported[metric][label]
    for label in re.findall(r"by \((\w+)\)", expression):
        assert all(label in exported[metric] for metric, _ in asked)


def test_legends_and_texts_name_labels_that_their_series_have(exported: Exported) -> None:
    texts = [(query.legend, query.expression) for question in questions(FLUX_DEV) for panel in question.panels
             for query in panel.queries]  # fmt: skip
    texts += [(alert.happened, alert.expression) for alert in alerts(FLUX_DEV)]
    for text, expression in texts:
        metric = SERIES.findall(expression)[0][0]
        for label in re.findall(r"\{\{ ?(?:\$labels\.)?(\w+) ?\}\}", text):
            assert label in exported[metric], f"{metric} has no label {label}, which {text!r} shows"


def test_a_misspelt_measure_is_refused() -> None:
    with pytest.raises(ValueError, match="no run measures reward_maen"):
        policy("reward_maen")


def test_the_dashboard_has_a_row_a_question_and_no_panel_over_another() -> None:
    panels = dashboard(FLUX_DEV)["panels"]
    titles = [panel["title"] for panel in panels if panel["type"] == "row"]
    assert titles == ["Is it learning?", "Is it on-policy?", "Who waits for whom?", "Are rewards scaling?",
                      "What failed?"]  # fmt: skip
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells = [
        (x, y)
        for place in (panel["gridPos"] for panel in panels)
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(cells) == len(set(cells)) and max(x for x, _ in cells) < 24


def test_every_alert_says_what_happened_and_what_to_do() -> None:
    names = {alert.name for alert in alerts(FLUX_DEV)}
    assert names >= {"NoProgress", "RatioDrift", "KlRunaway", "RewardPoolSaturated", "SpreadGone", "RunDiskNearlyFull"}
    for rule in rules(FLUX_DEV)["groups"][0]["rules"]:
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert rule["annotations"]["summary"].endswith(".") and rule["annotations"]["description"].endswith(".")


PROMTOOL = shutil.which("promtool")
SICK = {
    policy("iteration"): "100x120",
    policy("iteration_seconds"): "30x120",
    "ray_spatialt2i_run_published_time_seconds": "0x120",
    policy("ratio_drift"): "0.01x120",
    policy("kl"): "0.1x110 1x10",
    policy("groups_skipped"): "40x120",
    policy("reward_std"): "1x120",
    policy("scores_wait_seconds"): "20x120",
    policy("reward_replicas"): "8x120",
    "ray_spatialt2i_run_disk_free_ratio": "0.01x120",
    "ray_node_disk_free": "1x120",
    "ray_node_disk_usage": "99x120",
}
WELL = SICK | {
    "ray_spatialt2i_run_published_time_seconds": "0+60x120",
    policy("ratio_drift"): "0.00001x120",
    policy("kl"): "0.1x120",
    policy("groups_skipped"): "0x120",
    policy("scores_wait_seconds"): "1x120",
    "ray_spatialt2i_run_disk_free_ratio": "0.5x120",
    "ray_node_disk_free": "99x120",
}


@pytest.mark.skipif(not PROMTOOL, reason="there is no promtool on the path (Debian: apt-get install prometheus)")
@pytest.mark.parametrize("history, raised", [(SICK, {alert.name for alert in alerts(FLUX_DEV)}), (WELL, set())])
def test_prometheus_raises_every_alert_on_a_sick_run_and_none_on_a_well_one(
    history: dict[str, str], raised: set[str], tmp_path: Path
) -> None:
    """Two hours of history, one value a minute."""
    series = [{"series": f'{name}{{run="r", ip="n"}}', "values": values} for name, values in history.items()]
    firing = {
        "expr": 'count(ALERTS{alertstate="firing"}) by (alertname)',
        "eval_time": "119m",
        "exp_samples": [{"labels": f'{{alertname="{name}"}}', "value": 1} for name in sorted(raised)],
    }
    unit = {"interval": "1m", "input_series": series, "promql_expr_test": [firing]}
    (tmp_path / "alerts.yaml").write_text(yaml.safe_dump(rules(FLUX_DEV)))
    (tmp_path / "unit.yaml").write_text(
        yaml.safe_dump({"rule_files": ["alerts.yaml"], "evaluation_interval": "1m", "tests": [unit]})
    )
    result = subprocess.run(
        [str(PROMTOOL), "test", "rules", "unit.yaml"], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert result.returncode == 0, result.stdout + result.stderr


def test_the_committed_dashboard_is_json_that_grafana_reads() -> None:
    board = json.loads((Path(__file__).parents[2] / "cluster" / "grafana_dashboard.json").read_text())
    assert board == dashboard(FLUX_DEV) and board["uid"] == "spatialt2i"

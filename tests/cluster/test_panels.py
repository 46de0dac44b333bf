"""Dashboard and alerts ask only for what a real run exports, and every alert says what to do."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
from collections import defaultdict
from dataclasses import fields
from pathlib import Path
from typing import ClassVar

import pytest
import ray
import requests
import yaml
from prometheus_client.parser import text_string_to_metric_families

from cluster.alerts import PROGRESS, alerts, most_replicas, rules
from cluster.monitoring import dashboard
from cluster.panels import policy, questions
from conf import load
from pipelines.policy import gauges as gauges_module
from pipelines.policy.gauges import RunGauges
from pipelines.policy.metrics import EvaluationRow, IterationRow, RunLog
from pipelines.policy.stage import run_policy
from tests.support.tiny_reward import save_tiny_vlm, tiny_spatialscore

FLUX_DEV = load("flux_dev")
QUERIES = {
    f"{question.text} {panel.title}: {query.legend}": query.expression
    for question in questions(FLUX_DEV)
    for panel in question.panels
    for query in panel.queries
}
EXPRESSIONS = QUERIES | {alert.name: alert.expression for alert in alerts(FLUX_DEV)}
SERIES = re.compile(r"\b(ray_\w+)(?:\{([^}]*)\})?")
ONLY_WITH_GPUS = 'sum(ray_resources{Name="GPU"}) by (State)'
NO_NUMBER_WITHOUT_GPUS = policy("images_per_second_per_gpu")
Exported = dict[str, dict[str, set[str]]]  # metric -> label -> its values


@pytest.fixture(scope="module")
def exported(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """What Ray's agent tells Prometheus while two versions of a policy are trained on a real pool of SpatialScore."""
    folder = tmp_path_factory.mktemp("measured")
    save_tiny_vlm(folder / "vlm")
    tiny_spatialscore(folder / "vlm").save_pretrained(folder / "model")
    run_policy(load("scenes", [
        f"run_dir={folder}/run", f"serving.model={folder}/model", "serving.skip_sanity_checks=true", "policy.iterations=2",
        "policy.prompts_per_iteration=2", "policy.group_size=4", "policy.algorithm.top_k=1", "policy.sampling.denoise_steps=3",
        "policy.sampling.window=1", "policy.learner.replay_batch=4", "policy.evaluation.every=2", "policy.evaluation.prompts=4",
        "policy.rollout.max_actors=1", "policy.learner.threads=1",
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
        if metric == NO_NUMBER_WITHOUT_GPUS:
            continue
        assert metric in exported, f"no run exports {metric}"
        for label, operator, value in re.findall(r'(\w+)(=~|=)"([^"]*)"', selector):
            assert label in exported[metric], f"{metric} has no label {label}"
            if operator == "=" and expression != ONLY_WITH_GPUS:
                assert value in exported[metric][label]
    for label in re.findall(r"by \((\w+)\)", expression):
        assert all(label in exported[metric] for metric, _ in asked)


@pytest.mark.ray
@pytest.mark.slow
def test_what_stands_still_is_exported_until_the_run_ends(ray_cluster: None, tmp_path: Path) -> None:
    """NoProgress needs the time of the newest version for as long as no other comes; Ray drops it after half a minute.

    After the run's end it must go, or the alert is raised while the same process is at stage 4.
    """
    log, run = RunLog(tmp_path / "policy"), str(tmp_path)
    time.sleep(60)
    assert run in scrape()[PROGRESS]["run"]
    log.close()
    time.sleep(60)
    assert run not in scrape()[PROGRESS]["run"]


def test_legends_and_texts_name_labels_that_their_series_have(exported: Exported) -> None:
    texts = [(query.legend, query.expression) for question in questions(FLUX_DEV) for panel in question.panels
             for query in panel.queries]  # fmt: skip
    texts += [(alert.happened, alert.expression) for alert in alerts(FLUX_DEV)]
    for text, expression in texts:
        metric = SERIES.findall(expression)[0][0]
        for label in re.findall(r"\{\{ ?(?:\$labels\.)?(\w+) ?\}\}", text):
            known = metric == NO_NUMBER_WITHOUT_GPUS or label in exported[metric]
            assert known, f"{metric} has no label {label}, which {text!r} shows"


def test_a_misspelt_measure_is_refused() -> None:
    with pytest.raises(ValueError, match="no run measures reward_maen"):
        policy("reward_maen")


UNSHOWN = {
    "policy": {
        "training_seconds",  # nearly the graph's own axis
        "learner_idle_seconds",  # its parts are shown
        "sampling_seconds",  # the idle share of rollouts says it
        "images",  # as many as the settings say, as the next
        "samples_trained",
        "optimizer_steps_applied",  # those that were skipped are shown
        "lr",  # a function of the version and the settings
    },
    "evaluation": {"iteration", "training_seconds", "evaluation_seconds", "images"},
}


@pytest.mark.parametrize("family, row", [("policy", IterationRow), ("evaluation", EvaluationRow)])
def test_every_measure_has_a_panel_or_a_reason_to_have_none(family: str, row: type) -> None:
    asked = {metric for expression in QUERIES.values() for metric, _ in SERIES.findall(expression)}
    measured = {field.name for field in fields(row)}
    assert {name for name in measured if f"ray_spatialt2i_{family}_{name}" not in asked} == UNSHOWN[family]


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
    assert names >= {"NotBegun", "NoProgress", "RatioDrift", "KlRunaway", "RewardPoolSaturated", "SpreadGone",
                     "RunDiskNearlyFull"}  # fmt: skip
    for rule in rules(FLUX_DEV)["groups"][0]["rules"]:
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert rule["annotations"]["summary"].endswith(".") and rule["annotations"]["description"].endswith(".")


@pytest.mark.parametrize("mix, most, named, not_named", [
    ("rewards.spatialscore=1", 8, "Raise serving.max_replicas", "judge"),
    ("rewards.judge=0.1", 9, "for the judge judge.concurrency", "detector"),  # beside SpatialScore
    ("rewards.judge=0.1 rewards.detector=1 rewards.rules=1", 13, "for the detector detector.max_replicas", "max_staleness"),
    ("rewards.spatialscore=0 rewards.detector=1", 3, "Raise detector.max_replicas", "pool."),
    ("rewards.spatialscore=0 rewards.rules=1", 1, "policy.max_staleness=1", "max_replicas"),
])  # fmt: skip
def test_a_saturated_mix_has_the_replicas_of_all_its_rewards(mix: str, most: int, named: str, not_named: str) -> None:
    settings = load("flux_dev", [*mix.split(), "detector.max_replicas=3"])
    (saturated,) = (alert for alert in alerts(settings) if alert.name == "RewardPoolSaturated")
    assert most_replicas(settings) == most and saturated.expression.endswith(f"{policy('reward_replicas')} >= {most}")
    assert named in saturated.mend and not_named not in saturated.mend
    limits = [panel.limit for question in questions(settings) for panel in question.panels if panel.title == "Replicas"]
    assert limits == [settings.serving.max_replicas if settings.rewards.spatialscore else None]


class ForgetfulGauge:
    """Has a value until it is exported, as Ray's have."""

    values: ClassVar[dict[str, float]] = {}

    def __init__(self, name: str, description: str, tag_keys: tuple[str, ...]) -> None:
        self.name = f"ray_{name}"

    def set(self, value: float, tags: dict[str, str]) -> None:
        self.values[self.name] = value


def test_a_driver_tells_of_itself_before_its_first_version_and_for_as_long_as_it_makes_versions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: dict[str, float] = {}
    monkeypatch.setattr(gauges_module, "Gauge", ForgetfulGauge)
    monkeypatch.setattr(gauges_module, "REPEAT_AFTER", 0.01)
    monkeypatch.setattr(ForgetfulGauge, "values", found)
    RunLog(tmp_path / "policy").close()
    before = time.time()
    log = RunLog(tmp_path / "policy")
    begun = found[PROGRESS]
    assert before <= begun <= time.time()
    assert found[policy("driver_starts")] == 2 and policy("iteration_seconds") not in found
    found.clear()
    deadline = time.monotonic() + 10
    while len(found) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert found == {PROGRESS: begun, policy("driver_starts"): 2}
    log.close()
    time.sleep(0.1)  # a repetition that was under way
    found.clear()
    time.sleep(0.1)
    assert not found


def test_a_gauge_without_a_number_ceases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found: dict[str, float] = {}
    monkeypatch.setattr(gauges_module, "Gauge", ForgetfulGauge)
    monkeypatch.setattr(ForgetfulGauge, "values", found)
    gauges = RunGauges(tmp_path)
    gauges.set("policy_kl", 0.5, "")
    assert found.pop("ray_spatialt2i_policy_kl") == 0.5
    gauges.set("policy_kl", float("nan"), "")
    assert not found
    gauges.close()


PROMTOOL = shutil.which("promtool")
SICK = {
    policy("iteration"): "100x120",
    policy("iteration_seconds"): "30x120",
    PROGRESS: "0x120",
    policy("ratio_drift"): "0.01x120",
    policy("kl"): "0.1x110 1x10",
    policy("groups_skipped"): "40x120",
    policy("reward_std"): "1x120",
    policy("wait_for_scores_seconds"): "20x120",
    policy("reward_replicas"): "8x120",
    "ray_spatialt2i_run_disk_free_ratio": "0.01x120",
    "ray_node_disk_free": "1x120",
    "ray_node_disk_usage": "99x120",
}
WELL = SICK | {
    PROGRESS: "0+60x120",
    policy("ratio_drift"): "0.00001x120",
    policy("kl"): "0.1x120",
    policy("groups_skipped"): "0x120",
    policy("wait_for_scores_seconds"): "1x120",
    "ray_spatialt2i_run_disk_free_ratio": "0.5x120",
    "ray_node_disk_free": "99x120",
}
WAITING = {PROGRESS: "0x120"}  # of a driver that has published nothing yet
STARTING = {PROGRESS: "_x91 5460x28"}  # for less than half an hour
DONE = WELL | {PROGRESS: "0x10 stale"}


@pytest.mark.skipif(not PROMTOOL, reason="there is no promtool on the path (Debian: apt-get install prometheus)")
@pytest.mark.parametrize("history, raised", [
    (SICK, {alert.name for alert in alerts(FLUX_DEV)} - {"NotBegun"}),
    (WELL, set()),
    (WAITING, {"NotBegun"}),
    (STARTING, set()),
    (DONE, set()),
])  # fmt: skip
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

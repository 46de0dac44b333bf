"""Panels and alerts query only series that a real run exports."""

from __future__ import annotations

import json
import re
import time
from collections import defaultdict
from dataclasses import fields
from pathlib import Path

import pytest
import ray
import requests
from prometheus_client.parser import text_string_to_metric_families

from cluster.alert import PROGRESS_TIME
from cluster.alerts import alerts
from cluster.fault_alerts import FINISHED_TIME
from cluster.monitoring import dashboard
from cluster.panels import policy
from cluster.questions import questions
from conf import load
from pipelines.common.paths import RunPaths
from pipelines.policy.metrics import EvaluationRow, IterationRow
from pipelines.policy.run_log import RunLog
from pipelines.policy.train import run_policy
from tests.support.tiny_reward import save_tiny_vlm, tiny_spatialscore

FLUX_DEV = load("flux_dev")
PANELS = [(question.text, panel) for question in questions(FLUX_DEV) for panel in question.panels]
QUERIES = {
    f"{question} {panel.title}: {query.legend}": query.expression
    for question, panel in PANELS
    for query in panel.queries
}
EXPRESSIONS = QUERIES | {alert.name: alert.expression for alert in alerts(FLUX_DEV)}
SERIES = re.compile(r"\b(ray_\w+)(?:\{([^}]*)\})?")
ONLY_WITH_GPUS = 'sum(ray_resources{Name="GPU",SessionName=~"$cluster"}) by (State)'
ABSENT_HERE = (
    "ray_memory_manager_worker_eviction_total",  # from the first such event on
    FINISHED_TIME,  # for a few seconds after the end of a run
    "ray_node_gpus_utilization",
    "ray_node_gram_used",
    "ray_node_gram_available",
)
"""Series of events that the run does not have, and of GPUs."""
NAN_WITHOUT_GPUS = policy("images_per_second_per_gpu")
TINY_RUN = [
    "serving.skip_sanity_checks=true",
    "policy.iterations=2",
    "policy.prompts_per_iteration=2",
    "policy.group_size=4",
    "policy.algorithm.top_k=1",
    "policy.sampling.denoise_steps=3",
    "policy.sampling.window=1",
    "policy.learner.replay_batch=4",
    "policy.learner.threads=1",
    "policy.rollout.max_actors=1",
    "policy.evaluation.every=2",
    "policy.evaluation.prompts=4",
]
Exported = dict[str, dict[str, set[str]]]
"""Metric -> label -> its values."""


@pytest.fixture(scope="module")
def exported(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """What Ray exports to Prometheus while two versions of a policy are trained with a real SpatialScore replica."""
    folder = tmp_path_factory.mktemp("measured")
    save_tiny_vlm(folder / "vlm")
    tiny_spatialscore(folder / "vlm").save_pretrained(folder / "model")
    settings = load("scenes", [f"run_dir={folder}/run", f"serving.model={folder}/model", *TINY_RUN])
    run_policy(settings, log=lambda line: None)
    last = policy("iteration")
    deadline = time.monotonic() + 120
    found: Exported = {}
    while last not in found and time.monotonic() < deadline:  # Ray exports every few seconds
        time.sleep(1)
        found = scrape()
    return found


def scrape() -> Exported:
    """Reads Ray's metrics as Prometheus does."""
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
def test_every_series_in_a_query_is_exported(exported: Exported, name: str) -> None:
    expression = EXPRESSIONS[name]
    queried = SERIES.findall(expression)
    assert queried
    for metric, selector in queried:
        if metric in (NAN_WITHOUT_GPUS, *ABSENT_HERE):
            continue
        assert metric in exported, f"no run exports {metric}"
        for label, operator, value in re.findall(r'(\w+)(=~|=)"([^"]*)"', selector):
            assert label in exported[metric], f"{metric} has no label {label}"
            if operator == "=" and expression != ONLY_WITH_GPUS:
                assert value in exported[metric][label]
    for label in re.findall(r"by \((\w+)\)", expression):
        assert all(label in exported[metric] for metric, _ in queried if metric not in ABSENT_HERE)


@pytest.mark.ray
@pytest.mark.slow
def test_the_progress_time_is_exported_until_the_run_ends(ray_cluster: None, tmp_path: Path) -> None:
    """NoProgress needs the time of the newest version until the next one. Ray drops a gauge after 30 seconds.

    After the run it must disappear, or the alert is raised while the same process runs stage 4.
    """
    log, run = RunLog(RunPaths(tmp_path)), str(tmp_path)
    time.sleep(60)
    assert run in scrape()[PROGRESS_TIME]["run"]
    log.close()
    time.sleep(60)
    assert run not in scrape()[PROGRESS_TIME]["run"]


@pytest.mark.ray
def test_legends_and_summaries_use_labels_that_their_series_have(exported: Exported) -> None:
    texts = [(query.legend, query.expression) for _, panel in PANELS for query in panel.queries]
    texts += [(alert.summary, alert.expression) for alert in alerts(FLUX_DEV)]
    for text, expression in texts:
        metric = SERIES.findall(expression)[0][0]
        for label in re.findall(r"\{\{ ?(?:\$labels\.)?(\w+) ?\}\}", text):
            known = metric in (NAN_WITHOUT_GPUS, *ABSENT_HERE) or label in exported[metric]
            assert known, f"{metric} has no label {label}, which {text!r} shows"


def test_a_misspelt_metric_is_refused() -> None:
    with pytest.raises(ValueError, match="no run exports reward_maen"):
        policy("reward_maen")


NOT_SHOWN = {
    "policy": {
        "training_seconds",  # nearly the same as the time axis
        "learner_idle_seconds",  # its parts are shown
        "sampling_seconds",  # the idle fraction of rollout actors is shown
        "images",  # constant, from the settings
        "samples_trained",  # constant, unless groups are skipped, which is shown
        "optimizer_steps_applied",  # the skipped ones are shown
        "lr",  # a function of the iteration and the settings
    },
    "evaluation": {"iteration", "training_seconds", "evaluation_seconds", "images"},
}


@pytest.mark.parametrize(("family", "row"), [("policy", IterationRow), ("evaluation", EvaluationRow)])
def test_every_metric_is_in_a_panel_or_in_the_list_of_those_not_shown(family: str, row: type) -> None:
    queried = {metric for expression in QUERIES.values() for metric, _ in SERIES.findall(expression)}
    exported = {field.name for field in fields(row)}
    several = {
        "rewards": ("rewards_mean", "rewards_std", "rewards_correlation"),
        "measures": ("measures_mean", "measures_fall"),
    }
    series = {name: [f"ray_spatialt2i_{family}_{each}" for each in several.get(name, (name,))] for name in exported}
    assert {name for name in exported if not queried.issuperset(series[name])} == NOT_SHOWN[family]


def test_the_dashboard_has_one_row_per_question_and_no_overlapping_panels() -> None:
    panels = dashboard(FLUX_DEV)["panels"]
    titles = [panel["title"] for panel in panels if panel["type"] == "row"]
    assert titles == [
        "Is it learning?",
        "Is it on-policy?",
        "Who waits for whom?",
        "Are rewards scaling?",
        "What failed?",
        "What do the machines do?",
    ]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells = [
        (x, y)
        for position in (panel["gridPos"] for panel in panels)
        for x in range(position["x"], position["x"] + position["w"])
        for y in range(position["y"], position["y"] + position["h"])
    ]
    assert len(cells) == len(set(cells)) and max(x for x, _ in cells) < 24


def test_the_committed_dashboard_is_json_that_grafana_reads() -> None:
    committed = json.loads((Path(__file__).parents[2] / "cluster" / "grafana_dashboard.json").read_text())
    assert committed == dashboard(FLUX_DEV) and committed["uid"] == "spatialt2i"

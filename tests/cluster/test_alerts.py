"""The alert rules: their limits and advice follow the settings, and Prometheus raises each one on a sick run only."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from cluster.alert import PROGRESS_TIME
from cluster.alerts import alerts, max_reward_replicas, rules
from cluster.fault_alerts import FINISHED_TIME, fault_alerts
from cluster.panels import evaluation, policy
from cluster.questions import questions
from conf import load

FLUX_DEV = load("flux_dev")
FAULTS = {alert.name for alert in fault_alerts()}


def test_every_alert_says_what_happened_and_what_to_do() -> None:
    names = {alert.name for alert in alerts(FLUX_DEV)}
    assert names == {
        "NoFirstVersion",
        "NoProgress",
        "RatioDrift",
        "KlRunaway",
        "RewardSpreadLost",
        "MeasureFell",
        "ScoresMissing",
        "RewardPoolSaturated",
        "RunDiskNearlyFull",
        "NodeDiskNearlyFull",
        *FAULTS,
    }
    for rule in rules(FLUX_DEV)["groups"][0]["rules"]:
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert rule["annotations"]["summary"].endswith(".") and rule["annotations"]["description"].endswith(".")


@pytest.mark.parametrize(
    ("weights", "most", "named", "not_named"),
    [
        ("rewards.spatialscore=1", 2, "Raise serving.max_replicas", "judge"),
        ("rewards.judge=0.1", 3, "for the judge judge.concurrency", "detector"),  # with SpatialScore
        (
            "rewards.judge=0.1 rewards.detector=1 rewards.rules=1",
            7,
            "for the detector detector.max_replicas",
            "max_staleness",
        ),
        ("rewards.spatialscore=0 rewards.detector=1", 3, "Raise detector.max_replicas", "serving."),
        ("rewards.spatialscore=0 rewards.rules=1", 1, "policy.max_staleness=1", "max_replicas"),
    ],
)
def test_limits_and_advice_about_late_scores_follow_the_rewards_in_use(
    weights: str, most: int, named: str, not_named: str
) -> None:
    settings = load("flux_dev", [*weights.split(), "detector.max_replicas=3"])
    (saturated,) = (alert for alert in alerts(settings) if alert.name == "RewardPoolSaturated")
    assert max_reward_replicas(settings) == most
    assert saturated.expression.endswith(f"{policy('reward_replicas')} >= {most}")
    assert named in saturated.fix and not_named not in saturated.fix
    limits = [panel.limit for question in questions(settings) for panel in question.panels if panel.title == "Replicas"]
    assert limits == [settings.serving.max_replicas if settings.uses_reward("spatialscore") else None]


PROMTOOL = shutil.which("promtool")
FALL = evaluation("measures", 'measure="sharpness"', part="fall")
MISSING = evaluation("measures", 'measure="hpsv3"', part="missing")
SICK = {
    policy("iteration"): "100x120",
    policy("iteration_seconds"): "30x120",
    PROGRESS_TIME: "0x120",
    policy("ratio_drift"): "0.01x120",
    policy("kl"): "0.1x110 1x10",
    policy("groups_skipped"): "40x120",
    policy("reward_std"): "1x120",
    FALL: "0.6x120",
    MISSING: "256x120",
    evaluation("images"): "512x120",
    policy("wait_for_scores_seconds"): "20x120",
    policy("reward_replicas"): "8x120",
    "ray_spatialt2i_run_disk_free_ratio": "0.01x120",
    "ray_node_disk_free": "1x120",
    "ray_node_disk_usage": "99x120",
}
HEALTHY = SICK | {
    PROGRESS_TIME: "0+60x120",
    policy("ratio_drift"): "0.00001x120",
    policy("kl"): "0.1x120",
    policy("groups_skipped"): "0x120",
    FALL: "0.4x120",
    MISSING: "2x120",
    policy("wait_for_scores_seconds"): "1x120",
    "ray_spatialt2i_run_disk_free_ratio": "0.5x120",
    "ray_node_disk_free": "99x120",
}
WAITING = {PROGRESS_TIME: "0x120"}  # a driver without a first version, for two hours
STARTING = {PROGRESS_TIME: "_x91 5460x28"}  # a driver without a first version, for less than half an hour
DONE = HEALTHY | {PROGRESS_TIME: "0x10 stale", FINISHED_TIME: "_x10 601x1 stale"}
DIED = {PROGRESS_TIME: "0+60x30 stale"}  # a version a minute, then the driver is killed
STARTS, REPLACED, RESTARTED = policy("driver_starts"), policy("actors_replaced"), policy("learner_restarts")
MEMORY = "ray_node_mem_total"
LOSSES = {PROGRESS_TIME: HEALTHY[PROGRESS_TIME], RESTARTED: "0x120"}
REPLICAS = "ray_serve_deployment_replica_healthy"
PENDING = 'ray_actors{Source="gcs", State="PENDING_CREATION"}'
EVICTIONS = "ray_memory_manager_worker_eviction_total"
EXTENDED = {  # a run that ended well, was extended and died
    PROGRESS_TIME: "0x5 stale _x20 1560x10 stale",
    FINISHED_TIME: "_x5 301x1 stale",
}


@pytest.mark.skipif(not PROMTOOL, reason="promtool is not on the path (Debian: apt-get install prometheus)")
@pytest.mark.parametrize(
    ("history", "raised"),
    [
        (SICK, {alert.name for alert in alerts(FLUX_DEV)} - {"NoFirstVersion"} - FAULTS),
        (HEALTHY, set()),
        (WAITING, {"NoFirstVersion"}),
        (STARTING, set()),
        (DONE, set()),
        (DIED, {"RunDied"}),
        (EXTENDED, {"RunDied"}),
        (HEALTHY | {STARTS: "1x30 2x20 3x20 4x60"}, {"CrashLoop"}),
        (HEALTHY | {STARTS: "1x30 2x20 3x80"}, set()),
        (LOSSES | {REPLACED: "0x112 3x20", MEMORY: "1x110 stale"}, {"NodeLost"}),
        (LOSSES | {REPLACED: "0x120", MEMORY: "1x110 stale"}, set()),  # the autoscaler released an idle node
        (LOSSES | {REPLACED: "0x112 3x20", MEMORY: "1x120"}, set()),  # processes died, the node is there
        (HEALTHY | {EVICTIONS: "0x110 2x20"}, {"OutOfHostMemory"}),
        (HEALTHY | {EVICTIONS: "2x120"}, set()),
        (HEALTHY | {PENDING: "0x90 1x40"}, {"ActorPending"}),
        (HEALTHY | {PENDING: "0x90 1x10 0x30"}, set()),
        ({REPLICAS: "1x120"}, {"ReplicasWithoutDriver"}),
        (HEALTHY | {REPLICAS: "1x120"}, set()),
    ],
)
def test_prometheus_raises_every_alert_on_a_sick_run_and_none_on_a_healthy_one(
    history: dict[str, str], raised: set[str], tmp_path: Path
) -> None:
    """Two hours of history, one value a minute."""
    labels = 'run="r", ip="n", application="spatialscore-0123abcd"'
    series = [
        {"series": f"{name.rstrip('}')}{', ' if '{' in name else '{'}{labels}}}", "values": values}
        for name, values in history.items()
    ]
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
        [str(PROMTOOL), "test", "rules", "unit.yaml"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr

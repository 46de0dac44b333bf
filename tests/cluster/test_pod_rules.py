"""The manifests keep a healthy run alive, protect its pods, and are admitted to a restricted namespace."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

import pytest
import yaml

from cluster.render import rendered
from cluster.values import Values
from conf import load

Tree = dict[str, Any]
VALUES = Values()
FILES = {
    name: list(yaml.safe_load_all(text))
    for name, text in rendered(load("flux_dev"), VALUES).items()
    if name.endswith(".yaml")
}
JOB: Tree = FILES["rayjob.yaml"][0]["spec"]
CLUSTERS: dict[str, Tree] = {
    "RayCluster": FILES["raycluster.yaml"][0]["spec"],
    "RayJob": JOB["rayClusterSpec"],
    "RayService": FILES["rayservice.yaml"][0]["spec"]["rayClusterConfig"],
}
Event = Literal["cut", "head lost", "job failed"]


def outcome(job: Mapping[str, Any], events: list[Event]) -> str:
    """What KubeRay 1.7 makes of a RayJob in K8sJobMode, by its source.

    A log stream that breaks fails the submitter's pod, whose Job has a `backoffLimit` of 2 unless it is given. The next
    pod follows the job, or submits it again if the head does not know it. A submitter that gives up, or a job that
    fails, costs the RayJob an attempt, and the next one has a new cluster.
    """
    pods, attempts = 0, 0
    for event in events:
        pods += event != "job failed"
        if event == "job failed" or pods > job.get("submitterConfig", {}).get("backoffLimit", 2):
            pods, attempts = 0, attempts + 1
        if attempts > job.get("backoffLimit", 0):
            return "Failed"
    return f"running on cluster {attempts}"


def test_a_job_outlives_cuts_lost_heads_and_failures_and_a_plain_one_does_not() -> None:
    week = ["cut"] * 100 + ["head lost"] * 5
    assert JOB["submissionMode"] == "K8sJobMode"
    assert outcome(JOB, week) == "running on cluster 0"  # no GPU is given back
    assert outcome(JOB, ["job failed"] * 10) == "running on cluster 10"
    assert outcome(JOB, ["job failed"] * 11) == "Failed"
    assert outcome({"backoffLimit": 1}, ["cut"] * 3) == "running on cluster 1"
    assert outcome({"backoffLimit": 1}, ["cut"] * 6) == "Failed"


def pods() -> Iterator[tuple[str, Tree]]:
    """Every pod template that an operator applies, by a name."""
    for kind, cluster in CLUSTERS.items():
        yield f"{kind} head", cluster["headGroupSpec"]["template"]
        for group in cluster["workerGroupSpecs"]:
            yield f"{kind} {group['groupName']}", group["template"]
    yield "RayJob submitter", JOB["submitterPodTemplate"]


PODS = dict(pods())


@pytest.mark.parametrize("name", PODS)
def test_a_pod_is_admitted_by_the_restricted_pod_security_standard(name: str) -> None:
    spec, kind = PODS[name]["spec"], name.partition(" ")[0]
    extra = [CLUSTERS[kind]["autoscalerOptions"]] if name.endswith("head") else []  # KubeRay adds this container
    security = spec["securityContext"]
    assert security["runAsNonRoot"] and security["runAsUser"] > 0
    assert security["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in [*spec["containers"], *extra]:
        rules = container["securityContext"]
        assert rules["allowPrivilegeEscalation"] is False and rules["capabilities"] == {"drop": ["ALL"]}
    allowed = {"persistentVolumeClaim", "emptyDir", "configMap", "secret", "projected"}
    assert all(set(volume) - {"name"} <= allowed for volume in spec.get("volumes", []))
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec)


@pytest.mark.parametrize("name", [name for name in PODS if "submitter" not in name])
def test_a_pod_of_ray_asks_for_disk_and_does_not_own_its_volumes_anew(name: str) -> None:
    spec = PODS[name]["spec"]
    resources = spec["containers"][0]["resources"]
    assert resources["requests"]["ephemeral-storage"] == f"{VALUES.pod_disk}Gi"
    assert "ephemeral-storage" not in resources["limits"]  # a pod that spills would be evicted
    assert spec["securityContext"]["fsGroupChangePolicy"] == "OnRootMismatch"


def test_the_head_and_the_submitter_stay_where_they_are() -> None:
    kept = {
        name
        for name, pod in PODS.items()
        if pod["metadata"].get("annotations", {}).get("cluster-autoscaler.kubernetes.io/safe-to-evict") == "false"
        and pod["metadata"]["annotations"]["karpenter.sh/do-not-disrupt"] == "true"
    }
    assert kept == {name for name in PODS if name.endswith(("head", "submitter"))}
    (budget,) = (each for each in FILES["protection.yaml"] if each["kind"] == "PodDisruptionBudget")
    labels = budget["spec"]["selector"]["matchLabels"]
    assert labels.pop("ray.io/node-type") == "head"  # KubeRay's label of every head
    assert all(labels.items() <= pod["metadata"]["labels"].items() for pod in PODS.values())


def test_the_network_policy_selects_every_pod_and_admits_only_whom_it_names() -> None:
    (policy,) = (each["spec"] for each in FILES["protection.yaml"] if each["kind"] == "NetworkPolicy")
    selected = policy["podSelector"]["matchLabels"]
    assert all(selected.items() <= pod["metadata"]["labels"].items() for pod in PODS.values())
    assert policy["policyTypes"] == ["Ingress"]
    own, *others = policy["ingress"]
    assert own == {"from": [{"podSelector": policy["podSelector"]}]}
    assert all(rule["from"] and rule["ports"] for rule in others)
    ports = {str(rule["from"]): [each["port"] for each in rule["ports"]] for rule in others}
    assert [8000] in ports.values()
    assert all(8265 not in numbers or "kuberay-operator" in sender for sender, numbers in ports.items())


def test_optional_values_reach_every_pod() -> None:
    words = {"pull_secret": "registry", "priority_class": "high", "service_account": "ray", "namespace": "team"}
    values = Values(**words, gpu_nodes="pool=a100", head_nodes="pool=cpu")
    (cluster,) = yaml.safe_load_all(rendered(load("flux_dev"), values)["raycluster.yaml"])
    assert cluster["metadata"]["namespace"] == "team"
    head = cluster["spec"]["headGroupSpec"]["template"]["spec"]
    workers = [group["template"]["spec"] for group in cluster["spec"]["workerGroupSpecs"]]
    for spec, pool in [(head, "cpu"), *((worker, "a100") for worker in workers)]:
        assert spec["imagePullSecrets"] == [{"name": "registry"}] and spec["nodeSelector"] == {"pool": pool}
        assert (spec["priorityClassName"], spec["serviceAccountName"]) == ("high", "ray")

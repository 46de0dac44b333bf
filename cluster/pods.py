"""The pods of a cluster: what each may use, what protects it, and the secrets that it reads."""

from __future__ import annotations

from typing import Any

from cluster.values import Values

Manifest = dict[str, Any]

USER, GROUP = 1000, 100
"""Ids of the image's user `ray` and of its group."""
LABEL = "app.kubernetes.io/part-of"
"""Label of every pod of the project, also of clusters whose names KubeRay makes up."""
KEEP = {"cluster-autoscaler.kubernetes.io/safe-to-evict": "false", "karpenter.sh/do-not-disrupt": "true"}
"""Annotations that keep an autoscaler from moving a pod to another node."""
CONTAINER_SECURITY: Manifest = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
"""With the pod's `securityContext` this is what namespaces with the restricted pod security standard ask for."""


def pod(
    container: str, values: Values, environment: list[Manifest], cpus: int, memory: int, gpus: int, keep: bool = False
) -> Manifest:
    """A pod with one container. `memory` is in GiB; Ray's object store may use half of it. `keep`: see KEEP."""
    limits = {"cpu": str(cpus), "memory": f"{memory}Gi"} | ({"nvidia.com/gpu": str(gpus)} if gpus else {})
    claims = {"shared": values.shared, "models": values.models}
    spec = {
        **_common(values, values.gpu_nodes if gpus else values.head_nodes),
        "restartPolicy": "Never",  # the autoscaler replaces pods; it would not know a restarted container
        "containers": [
            {
                "name": container,
                "image": values.image,
                "securityContext": CONTAINER_SECURITY,
                "env": [{"name": "HF_HOME", "value": values.models}, *environment],
                # The disk of a node holds Ray's logs and spilled objects. A limit would evict a pod that spills.
                "resources": {"requests": {**limits, "ephemeral-storage": f"{values.pod_disk}Gi"}, "limits": limits},
                "volumeMounts": [
                    *({"name": name, "mountPath": path} for name, path in claims.items()),
                    {"name": "memory", "mountPath": "/dev/shm"},
                ],
            }
        ],
        "volumes": [
            *({"name": name, "persistentVolumeClaim": {"claimName": f"{values.name}-{name}"}} for name in claims),
            {"name": "memory", "emptyDir": {"medium": "Memory", "sizeLimit": f"{memory // 2}Gi"}},
        ],
    }
    if gpus:
        spec["tolerations"] = [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
    return {"metadata": _metadata(values, keep), "spec": spec}


def submitter(values: Values) -> Manifest:
    """The pod in which KubeRay submits the command of a RayJob and follows its log. KubeRay adds its command."""
    container = {
        "name": "ray-job-submitter",
        "image": values.image,
        "securityContext": CONTAINER_SECURITY,
        "resources": {"requests": {"cpu": "500m", "memory": "1Gi"}, "limits": {"cpu": "1", "memory": "1Gi"}},
    }
    spec = {**_common(values, values.head_nodes), "restartPolicy": "Never", "containers": [container]}
    return {"metadata": _metadata(values, keep=True), "spec": spec}


def _metadata(values: Values, keep: bool) -> Manifest:
    return {"labels": {LABEL: values.name}} | ({"annotations": dict(KEEP)} if keep else {})


def _common(values: Values, nodes: str) -> Manifest:
    """What all pods share. Values that are empty are left out."""
    key, _, value = nodes.partition("=")
    optional: Manifest = {
        "imagePullSecrets": values.pull_secret and [{"name": values.pull_secret}],
        "nodeSelector": nodes and {key: value},
        "priorityClassName": values.priority_class,
        "serviceAccountName": values.service_account,
    }
    return {name: each for name, each in optional.items() if each} | {
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "fsGroup": GROUP,  # so that the user may write to the volumes
            "fsGroupChangePolicy": "OnRootMismatch",  # else every new pod changes the owner of every file
            "seccompProfile": {"type": "RuntimeDefault"},
        }
    }


def secrets(values: Values, keys: tuple[str, ...]) -> list[Manifest]:
    """Environment variables whose values come from the secret."""
    return [
        {"name": key, "valueFrom": {"secretKeyRef": {"name": values.secret, "key": key, "optional": True}}}
        for key in keys
    ]


def resource(version: str, kind: str, name: str, values: Values, **content: Any) -> Manifest:
    """A Kubernetes object, in the namespace of the values if they name one."""
    namespace = {"namespace": values.namespace} if values.namespace else {}
    return {"apiVersion": version, "kind": kind, "metadata": {"name": name, **namespace}, **content}


def network_policy(values: Values) -> Manifest:
    """Who may open connections to the pods: each other, KubeRay's operator, Prometheus, and callers of the service.

    `kubectl port-forward` is not affected: it arrives from the node itself.
    """
    own = {"matchLabels": {LABEL: values.name}}
    operator = {"matchLabels": {"app.kubernetes.io/name": "kuberay-operator"}}
    monitoring = {"matchLabels": {"kubernetes.io/metadata.name": values.monitoring_namespace}}
    rules = [
        {"from": [{"podSelector": own}]},
        {"from": [{"namespaceSelector": {}, "podSelector": operator}], "ports": _ports(8265, 8000)},
        {"from": [{"namespaceSelector": monitoring}], "ports": _ports(8080, 44217, 44227)},
        {"from": [{"podSelector": {}}], "ports": _ports(8000)},  # POST /score asks for a token
    ]
    spec = {"podSelector": own, "policyTypes": ["Ingress"], "ingress": rules}
    return resource("networking.k8s.io/v1", "NetworkPolicy", f"{values.name}-ingress", values, spec=spec)


def disruption_budget(values: Values) -> Manifest:
    """Keeps `kubectl drain` and node upgrades from moving a head: the driver of the run is on it."""
    selector = {"matchLabels": {LABEL: values.name, "ray.io/node-type": "head"}}
    spec = {"minAvailable": 1000, "selector": selector}  # more than there are: maxUnavailable needs other controllers
    return resource("policy/v1", "PodDisruptionBudget", f"{values.name}-head", values, spec=spec)


def _ports(*numbers: int) -> list[Manifest]:
    return [{"protocol": "TCP", "port": number} for number in numbers]

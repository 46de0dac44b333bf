"""The manifests for Kubernetes: volume claims, RayCluster, RayJob and RayService."""

from __future__ import annotations

from typing import Any

from cluster.values import Group, Values, groups, rewards_share_gpus, service_group
from conf import Settings

Manifest = dict[str, Any]

DRIVER_KEYS = ("OPENAI_API_KEY", "ARK_API_KEY")
"""Environment variables with keys that only the driver, on the head, uses."""
NODE_KEYS = ("HF_TOKEN", "SPATIALSCORE_TOKEN")
"""Environment variables that every node needs: to download a model, and to check the token of HTTP callers."""


def storage(values: Values) -> list[Manifest]:
    """Volume claims for the run directories and the model cache."""
    sizes = {f"{values.name}-shared": values.shared_size, f"{values.name}-models": values.models_size}
    return [
        {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": name},
            "spec": {
                "accessModes": ["ReadWriteMany"],
                "storageClassName": values.storage_class,
                "resources": {"requests": {"storage": size}},
            },
        }
        for name, size in sizes.items()
    ]


def ray_cluster(settings: Settings, values: Values) -> Manifest:
    """A cluster that keeps running, for `spatialt2i submit`."""
    return _resource("RayCluster", values.name, cluster_spec(values, groups(settings, values)))


def ray_job(settings: Settings, values: Values) -> Manifest:
    """All stages as one job with its own cluster, which is deleted when the job is done. A failed job resumes once."""
    command = (
        f"spatialt2i run {settings.preset} run_dir={values.shared}/{settings.preset} "
        f"policy.prompts={values.shared}/prompts.jsonl policy.held_out_prompts={values.shared}/held_out.jsonl "
        + " ".join(f"{name}={group}" for name, group in node_groups(settings).items())
    )
    return _resource(
        "RayJob",
        f"{values.name}-run",
        {
            "entrypoint": command,
            "shutdownAfterJobFinishes": True,
            "ttlSecondsAfterFinished": values.idle_seconds,
            "backoffLimit": 1,
            "rayClusterSpec": cluster_spec(values, groups(settings, values)),
        },
    )


def node_groups(settings: Settings) -> dict[str, str]:
    """The settings that place each role on its worker group."""
    rollout = {"policy.rollout.node_group": "rollout"} if settings.policy.rollout.max_actors else {}
    reward = "learner" if rewards_share_gpus(settings) else "reward"
    return rollout | {"serving.node_group": reward, "policy.learner.node_group": "learner"}


def ray_service(settings: Settings, values: Values) -> Manifest:
    """SpatialScore over HTTP, without a training run."""
    application = (
        "applications:\n"
        "  - name: spatialscore\n"
        "    route_prefix: /\n"
        "    import_path: pipelines.reward.serve:application\n"
        "    args:\n"
        f"      preset: {settings.preset}\n"
        f"      run_dir: {values.shared}/{settings.preset}\n"
        "  - name: health\n"  # an application of its own, so that it answers when the queue of the other one is full
        "    route_prefix: /health\n"
        "    import_path: pipelines.reward.serve:health\n"
    )
    spec = {"serveConfigV2": application, "rayClusterConfig": cluster_spec(values, (service_group(settings, values),))}
    return _resource("RayService", f"{values.name}-score", spec)


def cluster_spec(values: Values, workers: tuple[Group, ...]) -> Manifest:
    """Head and worker groups, with Ray's autoscaler and token authentication."""
    return {
        "rayVersion": values.ray,
        "authOptions": {"mode": "token"},
        "enableInTreeAutoscaling": True,
        "autoscalerOptions": {"version": "v2", "idleTimeoutSeconds": values.idle_seconds},
        "headGroupSpec": {
            "rayStartParams": {"num-cpus": "0"},
            "template": _pod(
                "ray-head",
                values,
                [*_dashboard(values), *_secrets(values, DRIVER_KEYS + NODE_KEYS)],
                values.head_cpus,
                values.head_memory,
                gpus=0,
            ),
        },
        "workerGroupSpecs": [_worker_group(values, group) for group in workers],
    }


def _worker_group(values: Values, group: Group) -> Manifest:
    cpus, memory = group.gpus_per_pod * values.cpus_per_gpu, group.gpus_per_pod * values.memory_per_gpu
    return {
        "groupName": group.name,
        "replicas": group.min_pods,
        "minReplicas": group.min_pods,
        "maxReplicas": group.max_pods,
        "rayStartParams": {},
        "labels": {
            "ray.io/node-group": group.name
        },  # the autoscaler does not know the labels of nodes that do not exist yet
        "template": _pod("ray-worker", values, _secrets(values, NODE_KEYS), cpus, memory, group.gpus_per_pod),
    }


def _dashboard(values: Values) -> list[Manifest]:
    """Environment variables that tell Ray's dashboard where Prometheus and Grafana are. It shows their panels."""
    return [
        {"name": "RAY_PROMETHEUS_HOST", "value": values.prometheus_url},
        {"name": "RAY_GRAFANA_HOST", "value": values.grafana_url},
        {"name": "RAY_GRAFANA_IFRAME_HOST", "value": values.grafana_browser_url},
    ]


def _pod(container: str, values: Values, environment: list[Manifest], cpus: int, memory: int, gpus: int) -> Manifest:
    """A pod with one container. `memory` is in GiB; Ray's object store may use half of it."""
    resources = {"cpu": str(cpus), "memory": f"{memory}Gi"} | ({"nvidia.com/gpu": str(gpus)} if gpus else {})
    claims = {"shared": values.shared, "models": values.models}
    spec = {
        "restartPolicy": "Never",  # the autoscaler replaces pods; it would not know a restarted container
        "securityContext": {"fsGroup": 100},  # group of the image's user, so that it may write to the volumes
        "containers": [
            {
                "name": container,
                "image": values.image,
                "env": [{"name": "HF_HOME", "value": values.models}, *environment],
                "resources": {"requests": resources, "limits": resources},
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
    return {"spec": spec}


def _secrets(values: Values, keys: tuple[str, ...]) -> list[Manifest]:
    """Environment variables whose values come from the secret."""
    return [
        {"name": key, "valueFrom": {"secretKeyRef": {"name": values.secret, "key": key, "optional": True}}}
        for key in keys
    ]


def _resource(kind: str, name: str, spec: Manifest) -> Manifest:
    return {"apiVersion": "ray.io/v1", "kind": kind, "metadata": {"name": name}, "spec": spec}

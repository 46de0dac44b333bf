"""The manifests for Kubernetes: volume claims, RayCluster, RayJob and RayService."""

from __future__ import annotations

from cluster.pods import (
    CONTAINER_SECURITY,
    Manifest,
    disruption_budget,
    network_policy,
    pod,
    resource,
    secrets,
    submitter,
)
from cluster.values import Group, Values, groups, limits, rewards_share_gpus, service_group
from conf import Settings
from pipelines.common.node_limits import VARIABLE, NodeLimit, limits_text

DRIVER_KEYS = ("OPENAI_API_KEY", "ARK_API_KEY")
"""Environment variables with keys that only the driver, on the head, uses."""
RESUBMISSIONS, NEW_CLUSTERS = 1000, 10
"""How often a RayJob attaches to the log again, or submits again after the head was lost; and starts a new cluster.

KubeRay counts each log stream that breaks as a failed submission, and with its default of 2 it ends a healthy run.
"""
STOP_SECONDS = 60
"""Time that a driver has to remove its actors and replicas after `ray job stop`."""
NODE_KEYS = ("HF_TOKEN", "SPATIALSCORE_TOKEN")
"""Environment variables that every node needs: to download a model, and to check the token of HTTP callers."""


def storage(values: Values) -> list[Manifest]:
    """Volume claims for the run directories and the model cache."""
    sizes = {f"{values.name}-shared": values.shared_size, f"{values.name}-models": values.models_size}
    return [
        resource(
            "v1",
            "PersistentVolumeClaim",
            name,
            values,
            spec={
                "accessModes": ["ReadWriteMany"],
                "storageClassName": values.storage_class,
                "resources": {"requests": {"storage": size}},
            },
        )
        for name, size in sizes.items()
    ]


def protection(values: Values) -> list[Manifest]:
    """What protects the pods of all clusters of the project: from other pods, and the heads from being moved."""
    return [network_policy(values), disruption_budget(values)]


def ray_cluster(settings: Settings, values: Values) -> Manifest:
    """A cluster that keeps running, for `spatialt2i submit`."""
    spec = cluster_spec(values, groups(settings, values), limits(settings, values))
    return _ray("RayCluster", values.name, values, spec)


def ray_job(settings: Settings, values: Values) -> Manifest:
    """All stages as one job with its own cluster, which is deleted when the job is done.

    A job whose log stream breaks is followed again, one that is lost with its head is submitted again, and one that
    failed runs again on a new cluster. Each continues from the newest checkpoint.
    """
    command = (
        f"spatialt2i run {settings.preset} run_dir={values.shared}/{settings.preset} "
        f"policy.prompts={values.shared}/prompts.jsonl policy.held_out_prompts={values.shared}/held_out.jsonl "
        + " ".join(f"{name}={group}" for name, group in node_groups(settings).items())
    )
    return _ray(
        "RayJob",
        f"{values.name}-run",
        values,
        {
            "entrypoint": command,
            "shutdownAfterJobFinishes": True,
            "ttlSecondsAfterFinished": values.idle_seconds,
            "backoffLimit": NEW_CLUSTERS,
            "submissionMode": "K8sJobMode",
            "submitterConfig": {"backoffLimit": RESUBMISSIONS},
            "submitterPodTemplate": submitter(values),
            "rayClusterSpec": cluster_spec(values, groups(settings, values), limits(settings, values)),
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
    return _ray("RayService", f"{values.name}-score", values, spec)


def cluster_spec(values: Values, workers: tuple[Group, ...], most: tuple[NodeLimit, ...] = ()) -> Manifest:
    """Head and worker groups, with Ray's autoscaler and token authentication. `most`: what the driver may count on."""
    known = [{"name": VARIABLE, "value": limits_text(most)}] if most else []
    return {
        "rayVersion": values.ray,
        "authOptions": {"mode": "token"},
        "enableInTreeAutoscaling": True,
        "autoscalerOptions": {
            "version": "v2",
            "idleTimeoutSeconds": values.idle_seconds,
            "securityContext": CONTAINER_SECURITY,
        },
        "headGroupSpec": {
            "rayStartParams": {"num-cpus": "0"},
            "template": pod(
                "ray-head",
                values,
                [*_dashboard(values), *known, *secrets(values, DRIVER_KEYS + NODE_KEYS)],
                values.head_cpus,
                values.head_memory,
                gpus=0,
                keep=True,
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
        "template": pod("ray-worker", values, secrets(values, NODE_KEYS), cpus, memory, group.gpus_per_pod),
    }


def _dashboard(values: Values) -> list[Manifest]:
    """Environment variables of Ray's dashboard: how long a job may take to stop, and whose panels it shows."""
    return [
        {"name": "RAY_JOB_STOP_WAIT_TIME_S", "value": str(STOP_SECONDS)},
        {"name": "RAY_PROMETHEUS_HOST", "value": values.prometheus_url},
        {"name": "RAY_GRAFANA_HOST", "value": values.grafana_url},
        {"name": "RAY_GRAFANA_IFRAME_HOST", "value": values.grafana_browser_url},
    ]


def _ray(kind: str, name: str, values: Values, spec: Manifest) -> Manifest:
    return resource("ray.io/v1", kind, name, values, spec=spec)

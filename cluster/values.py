"""What an operator may want other than it is, and what the presets already say: the one source of all manifests."""

from __future__ import annotations

import math
from dataclasses import dataclass

from conf import Settings


@dataclass(frozen=True)
class Values:
    """The cluster's own values. Numbers of GPUs are not among them: those come from the preset."""

    name: str = "spatialt2i"  # of the RayCluster, RayJob and RayService, and the first word of what belongs to them
    image: str = "spatialt2i:latest"  # built from cluster/Dockerfile
    ray: str = "2.60.0"  # as constraints.txt pins it
    secret: str = "spatialt2i-secrets"  # HF_TOKEN; where needed OPENAI_API_KEY, ARK_API_KEY, SPATIALSCORE_TOKEN
    storage_class: str = "shared"  # a class whose volumes many nodes may write: NFS, CephFS, EFS, Filestore
    shared_size: str = "2Ti"  # run folders: pairs, checkpoints, pictures
    models_size: str = "500Gi"  # Hugging Face's cache
    shared: str = "/shared"  # where every node mounts the run folders
    models: str = "/models"  # and the model cache
    ray_folder: str = "/tmp/ray"  # of the head: where Ray lists the nodes that tell their metrics
    prometheus: str = "prometheus"  # Helm release of kube-prometheus-stack, whose label its operator looks for
    prometheus_url: str = "http://prometheus-kube-prometheus-prometheus.monitoring:9090"  # as the head reaches it
    grafana_url: str = "http://prometheus-grafana.monitoring:80"  # as the head reaches it
    grafana_browser_url: str = "http://127.0.0.1:3000"  # as your browser does: by `kubectl port-forward`
    head_cpus: int = 8  # for the driver and Ray's own processes; no actor is placed on them
    head_memory: int = 32  # GiB
    gpus_per_node: int = 8  # of one machine: no pod may ask for more
    cpus_per_gpu: int = 8  # a pod's share of its machine
    memory_per_gpu: int = 64  # GiB; weights pass through it on their way to the GPU
    idle_seconds: int = 300  # until a node without work is given back
    ssh_user: str = "ubuntu"  # `ray up`: who may log in, and may run docker
    head_ip: str = "10.0.0.10"  # on-premise
    first_worker_ip: str = "10.0.0.11"  # on-premise; the others follow it
    aws_region: str = "us-west-2"
    aws_head: str = "m6i.2xlarge"
    aws_worker: str = "p4de.24xlarge"  # eight A100 of 80 GB
    aws_disk: int = 500  # GiB of a machine's own disk: the image, and what Ray spills
    aws_filesystem: str = "fs-00000000000000000"  # an EFS that nodes of that region can mount


@dataclass(frozen=True)
class Group:
    """A worker group: pods of so many GPUs, and how few and how many of them."""

    name: str
    pod_gpus: int
    smallest: int
    largest: int


def groups(settings: Settings, values: Values) -> tuple[Group, Group, Group]:
    """The worker groups that a preset's policy stage needs: rollout, reward, learner.

    A rollout actor and a reward replica each get pods of their own, so that one GPU is the step in which the cluster
    grows. Ranks of the learner share pods, as they talk to each other all the time. Raises ValueError for a preset
    whose roles share a GPU, and for ranks that do not fill whole pods.
    """
    policy, pool = settings.policy, settings.serving
    for name, gpus in (("policy.rollout.gpus", policy.rollout.gpus), ("serving.gpus", pool.gpus),
                       ("policy.learner.gpus", policy.learner.gpus)):  # fmt: skip
        if gpus != int(gpus) or not 1 <= gpus <= values.gpus_per_node:
            raise ValueError(
                f"{name} must be a whole number of GPUs between 1 and {values.gpus_per_node} for worker groups, got "
                f"{gpus:g} from {settings.preset}: choose another preset, or run this one on one machine"
            )
    ranks = policy.learner.ranks * int(policy.learner.gpus)
    learner_pods = math.ceil(ranks / values.gpus_per_node)
    if ranks % learner_pods:
        raise ValueError(
            f"{ranks} GPUs of the learner must fill {learner_pods} pods evenly: change policy.learner.ranks"
        )
    return (
        Group("rollout", int(policy.rollout.gpus), policy.rollout.min_actors, policy.rollout.max_actors),
        Group("reward", int(pool.gpus), pool.min_replicas, pool.max_replicas),
        Group("learner", ranks // learner_pods, learner_pods, learner_pods),
    )


def gpu_nodes(settings: Settings, values: Values) -> int:
    """Whole machines that hold all groups at their largest."""
    gpus = sum(group.pod_gpus * group.largest for group in groups(settings, values))
    return math.ceil(gpus / values.gpus_per_node)

"""The values of a cluster that an operator may change, and the worker groups that follow from a preset."""

from __future__ import annotations

import math
from dataclasses import dataclass

from conf import Settings, SettingsError
from pipelines.common.node_limits import NodeLimit


@dataclass(frozen=True)
class Values:
    """Names, sizes, images and paths of a cluster. Numbers of GPUs are not among them: they come from the preset."""

    name: str = "spatialt2i"  # of the RayCluster; the names of its job, service, claims and secret start with it
    image: str = "spatialt2i:latest"  # built from cluster/Dockerfile
    namespace: str = ""  # of all objects; empty: the one that kubectl uses
    pull_secret: str = ""  # name of the secret with the registry's password
    gpu_nodes: str = ""  # label of the nodes for GPU pods, e.g. gpu_nodes=pool=a100; empty: any
    head_nodes: str = ""  # label of the nodes for heads; empty: any
    priority_class: str = ""  # of all pods, so that other work does not preempt them
    service_account: str = ""  # of all pods; KubeRay lets the head's account change the number of pods
    monitoring_namespace: str = "monitoring"  # may read the pods' metrics
    pod_disk: int = 100  # GiB of the node's disk that a pod asks for: Ray's logs, and objects that it spills
    ray: str = "2.60.0"  # as in constraints.txt
    secret: str = "spatialt2i-secrets"  # HF_TOKEN; if needed OPENAI_API_KEY, ARK_API_KEY, SPATIALSCORE_TOKEN
    storage_class: str = "shared"  # with volumes that many nodes may write: NFS, CephFS, EFS, Filestore
    shared_size: str = "2Ti"  # of run directories: pairs, checkpoints, images
    models_size: str = "500Gi"  # of Hugging Face's cache
    shared: str = "/shared"  # where every node mounts the run directories
    models: str = "/models"  # where every node mounts the model cache
    ray_folder: str = "/tmp/ray"  # Ray's temporary folder on the head, with the list of nodes for Prometheus
    prometheus: str = "prometheus"  # Helm release of kube-prometheus-stack; its operator selects by this label
    prometheus_url: str = "http://prometheus-kube-prometheus-prometheus.monitoring:9090"  # as seen from the head
    alertmanager: str = "127.0.0.1:9093"  # sends the alerts, for a Prometheus on the head; docs/cluster.md sets one up
    grafana_url: str = "http://prometheus-grafana.monitoring:80"  # as seen from the head
    grafana_browser_url: str = "http://127.0.0.1:3000"  # as seen from your browser, by `kubectl port-forward`
    head_cpus: int = 8  # for the driver and Ray's own processes; no actor runs on the head
    head_memory: int = 32  # GiB
    gpus_per_node: int = 8  # of one machine; a pod cannot have more
    cpus_per_gpu: int = 8  # of a pod
    machine_cpus: int = 96  # of one machine without Kubernetes; p4de.24xlarge has 96
    memory_per_gpu: int = 64  # GiB of a pod; weights are loaded into it before they are copied to the GPU
    idle_seconds: int = 300  # after which a node without work is released
    ssh_user: str = "ubuntu"  # `ray up`: may log in and run docker
    ssh_key: str = "~/.ssh/id_ed25519"  # on-premise; Ray copies this private key to the head, which starts workers
    head_ip: str = "10.0.0.10"  # on-premise
    first_worker_ip: str = "10.0.0.11"  # on-premise; the other workers have the next addresses
    aws_region: str = "us-west-2"
    aws_head: str = "m6i.2xlarge"
    aws_worker: str = "p4de.24xlarge"  # eight A100 of 80 GB
    aws_image: str = "ami-00000000000000000"  # with docker and driver 580: see docs/cluster.md
    aws_disk: int = 500  # GiB of a machine's own disk: the image, and the objects that Ray spills
    aws_filesystem: str = "fs-00000000000000000"  # an EFS that nodes of that region can mount


@dataclass(frozen=True)
class Group:
    """A worker group: the GPUs of a pod, and the minimum and maximum number of pods."""

    name: str
    gpus_per_pod: int
    min_pods: int
    max_pods: int


def groups(settings: Settings, values: Values) -> tuple[Group, ...]:
    """The worker groups that stage 3 of a preset needs: rollout, reward and learner, as far as it has these roles.

    Rollout actors and reward replicas get one pod each, so the cluster grows and shrinks by single processes. The ranks
    of the learner share pods, because they communicate all the time. Reward replicas that fit beside the ranks, on a
    fraction of the same GPUs, run in the ranks' pods. Raises SettingsError for other fractions of a GPU.
    """
    policy, found = settings.policy, list[Group]()
    shares = rewards_share_gpus(settings)
    if policy.rollout.max_actors:
        gpus = _whole("policy.rollout.gpus", policy.rollout.gpus, settings, values)
        found.append(Group("rollout", gpus, policy.rollout.min_actors, policy.rollout.max_actors))
    if not shares:
        found.append(reward_group(settings, values))
    per_rank = 1 if shares else _whole("policy.learner.gpus", policy.learner.gpus, settings, values)
    fitting = (
        ranks
        for ranks in range(1, values.gpus_per_node // per_rank + 1)
        # Pods of 6 GPUs would leave 2 on each machine of 8, so a pod's number divides the machine's.
        if policy.learner.ranks % ranks == 0 and values.gpus_per_node % (ranks * per_rank) == 0
    )
    per_pod = per_rank * max(fitting, default=1)
    pods = policy.learner.ranks * per_rank // per_pod
    return (*found, Group("learner", per_pod, pods, pods))


def rewards_share_gpus(settings: Settings) -> bool:
    """Whether every replica of SpatialScore fits beside a learner rank, on the same GPU."""
    serving, learner = settings.serving, settings.policy.learner
    fits = 0 < serving.gpus < 1 and 0 < learner.gpus < 1 and serving.gpus + learner.gpus <= 1
    return fits and serving.max_replicas <= learner.ranks


def reward_group(settings: Settings, values: Values) -> Group:
    """The worker group of SpatialScore alone."""
    serving = settings.serving
    gpus = _whole("serving.gpus", serving.gpus, settings, values)
    return Group("reward", gpus, serving.min_replicas, serving.max_replicas)


def service_group(settings: Settings, values: Values) -> Group:
    """The worker group of a service of SpatialScore without a run. Replicas with fractions of a GPU share pods."""
    serving = settings.serving
    if not 0 < serving.gpus < 1:
        return reward_group(settings, values)
    least, most = (math.ceil(count * serving.gpus) for count in (serving.min_replicas, serving.max_replicas))
    return Group("reward", 1, least, most)


def _whole(name: str, gpus: float, settings: Settings, values: Values) -> int:
    """The GPUs of a process. Raises SettingsError unless one pod can have them."""
    if gpus != int(gpus) or not 1 <= gpus <= values.gpus_per_node:
        raise SettingsError(
            f"{name} must be a whole number of GPUs between 1 and {values.gpus_per_node} for worker groups, got "
            f"{gpus:g} from {settings.preset}: choose another preset, or run this one on one machine"
        )
    return int(gpus)


def limits(settings: Settings, values: Values) -> tuple[NodeLimit, ...]:
    """The largest number of pods of each group, for the driver: a run that needs more could wait for ever."""
    return tuple(
        NodeLimit(group.max_pods, group.gpus_per_pod * values.cpus_per_gpu, group.gpus_per_pod, group.name)
        for group in groups(settings, values)
    )


def machine_limits(settings: Settings, values: Values) -> tuple[NodeLimit, ...]:
    """The same for machines without Kubernetes, which have no node groups."""
    return (NodeLimit(gpu_nodes(settings, values), values.machine_cpus, values.gpus_per_node, ""),)


def gpu_nodes(settings: Settings, values: Values) -> int:
    """Number of machines that hold all groups at their maximum."""
    gpus = sum(group.gpus_per_pod * group.max_pods for group in groups(settings, values))
    return math.ceil(gpus / values.gpus_per_node)

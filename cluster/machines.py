"""Files for machines without Kubernetes (`ray up`, on-premise and on AWS), and the Dockerfile of the image."""

from __future__ import annotations

import ipaddress
from typing import Any

from cluster.values import Values, gpu_nodes, machine_limits
from conf import Settings
from pipelines.common.node_limits import VARIABLE, limits_text

TOKEN = ".ray/auth_token"
"""Path in a user's home folder where Ray looks for its token."""
METRICS_PORT = 8080
"""Port of every node at which Ray serves its metrics. Without a number Ray chooses one."""


def on_premise(settings: Settings, values: Values) -> dict[str, Any]:
    """`ray up` on existing machines: one head, and as many GPU machines as the preset needs."""
    count, first = gpu_nodes(settings, values), ipaddress.ip_address(values.first_worker_ip)
    return {
        "cluster_name": values.name,
        "provider": {
            "type": "local",
            "head_ip": values.head_ip,
            "worker_ips": [str(first + number) for number in range(count)],
        },
        "auth": {"ssh_user": values.ssh_user, "ssh_private_key": values.ssh_key},
        "max_workers": count,
        "initialization_commands": [_prepare(values)],
        **_common(settings, values),
    }


def aws(settings: Settings, values: Values) -> dict[str, Any]:
    """`ray up` on AWS: GPU machines are started when work waits for them, and terminated when idle."""
    mount = (
        f"sudo apt-get update && sudo apt-get install -y nfs-common && sudo mkdir -p {values.shared} && "
        f"(mountpoint -q {values.shared} || sudo timeout 120 mount -t nfs4 -o nfsvers=4.1,hard,noresvport "
        f"{values.aws_filesystem}.efs.{values.aws_region}.amazonaws.com:/ {values.shared}) && "
        f"sudo chmod 1777 {values.shared}"
    )
    count = gpu_nodes(settings, values)
    machine = {
        "ImageId": values.aws_image,  # Ray's own default is of 2022, and its driver is too old for this torch
        "BlockDeviceMappings": [{"DeviceName": "/dev/sda1", "Ebs": {"VolumeSize": values.aws_disk}}],
    }
    return {
        "cluster_name": values.name,
        "provider": {"type": "aws", "region": values.aws_region, "cache_stopped_nodes": False},
        "auth": {"ssh_user": values.ssh_user},
        "max_workers": count,
        "head_node_type": "head",
        "available_node_types": {
            "head": {"resources": {"CPU": 0}, "node_config": {"InstanceType": values.aws_head, **machine}},
            "gpu": {
                "min_workers": 0,
                "max_workers": count,
                "resources": {},
                "node_config": {"InstanceType": values.aws_worker, **machine},
            },
        },
        "initialization_commands": [mount, _prepare(values)],
        **_common(settings, values),
    }


def _prepare(values: Values) -> str:
    """A command for every machine, outside the container: the files that docker mounts or reads."""
    return (
        f"touch $HOME/{values.name}.env && mkdir -p {values.ray_folder} && (chmod 1777 {values.ray_folder} || "
        f"sudo chmod 1777 {values.ray_folder})"
    )


def _common(settings: Settings, values: Values) -> dict[str, Any]:
    """Image, mounts, secrets and token. The dashboard listens on the head's loopback only, which is Ray's default."""
    home, start = "/home/ray", "ulimit -n 65536; ray start"
    metrics = f"--metrics-export-port={METRICS_PORT}"
    return {
        "idle_timeout_minutes": max(1, values.idle_seconds // 60),
        "docker": {
            "image": values.image,
            "container_name": values.name,
            "run_options": [
                "--ulimit nofile=65536:65536",
                "--shm-size=64g",
                f"-v {values.shared}:{values.shared}",
                f"-v {values.ray_folder}:{values.ray_folder}",  # for Prometheus on the head, and for spilled objects
                f"-e HF_HOME={values.shared}/models",  # also the place of the token that `hf auth login` saves
                "-e NVIDIA_VISIBLE_DEVICES=all",
                f"-e {VARIABLE}={limits_text(machine_limits(settings, values))}",
                "-e RAY_AUTH_MODE=token",
                f"--env-file $HOME/{values.name}.env",
            ],
        },
        "file_mounts": {f"{home}/{TOKEN}": f"~/{TOKEN}"},
        "head_start_ray_commands": [
            "ray stop",
            f"{start} --head --num-cpus=0 --port=6379 {metrics} --autoscaling-config=~/ray_bootstrap_config.yaml",
        ],
        "worker_start_ray_commands": ["ray stop", f"{start} --address=$RAY_HEAD_IP:6379 {metrics}"],
    }


def dockerfile(values: Values) -> str:
    """The image of head and workers: Ray's CPU image, whose wheels of torch bring CUDA, with this repository.

    The dependencies are a layer of their own, so that a change of the code sends a few megabytes.
    """
    return f"""\
# docker build -f cluster/Dockerfile -t {values.image} .
FROM rayproject/ray:{values.ray}-py311-cpu
WORKDIR /home/ray/spatialt2i
COPY --chown=ray:users pyproject.toml constraints.txt ./
RUN python -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['dependencies'], \\
    sep='\\n')" > dependencies.txt && \\
    python -m pip install --no-cache-dir --constraint constraints.txt --requirement dependencies.txt
COPY --chown=ray:users README.md LICENSE ./
COPY --chown=ray:users conf conf
COPY --chown=ray:users actors actors
COPY --chown=ray:users pipelines pipelines
RUN python -m pip install --no-cache-dir --no-deps --editable .
ENV RAY_USAGE_STATS_ENABLED=0 RAY_AUTH_MODE=token NVIDIA_DRIVER_CAPABILITIES=compute,utility
"""

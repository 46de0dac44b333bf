"""Files for machines without Kubernetes (`ray up`, on-premise and on AWS), and the Dockerfile of the image."""

from __future__ import annotations

import ipaddress
from typing import Any

from cluster.values import Values, gpu_nodes
from conf import Settings

TOKEN = ".ray/auth_token"
"""Path in a user's home folder where Ray looks for its token."""


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
        "auth": {"ssh_user": values.ssh_user},
        "max_workers": count,
        **_common(values),
    }


def aws(settings: Settings, values: Values) -> dict[str, Any]:
    """`ray up` on AWS: GPU machines are started when work waits for them, and terminated when idle."""
    mount = (
        f"sudo apt-get install -y nfs-common && sudo mkdir -p {values.shared} && "
        f"(mountpoint -q {values.shared} || sudo mount -t nfs4 -o nfsvers=4.1,hard,noresvport "
        f"{values.aws_filesystem}.efs.{values.aws_region}.amazonaws.com:/ {values.shared}) && "
        f"sudo chmod 1777 {values.shared} && touch $HOME/{values.name}.env"
    )
    count = gpu_nodes(settings, values)
    disk = {"BlockDeviceMappings": [{"DeviceName": "/dev/sda1", "Ebs": {"VolumeSize": values.aws_disk}}]}
    return {
        "cluster_name": values.name,
        "provider": {"type": "aws", "region": values.aws_region, "cache_stopped_nodes": False},
        "auth": {"ssh_user": values.ssh_user},
        "max_workers": count,
        "head_node_type": "head",
        "available_node_types": {
            "head": {"resources": {"CPU": 0}, "node_config": {"InstanceType": values.aws_head, **disk}},
            "gpu": {
                "min_workers": 0,
                "max_workers": count,
                "resources": {},
                "node_config": {"InstanceType": values.aws_worker, **disk},
            },
        },
        "initialization_commands": [mount],
        **_common(values),
    }


def _common(values: Values) -> dict[str, Any]:
    """Image, mounts, secrets and token. The dashboard listens on the head's loopback only, which is Ray's default."""
    home, start = "/home/ray", "ulimit -n 65536; ray start"
    return {
        "idle_timeout_minutes": max(1, values.idle_seconds // 60),
        "docker": {
            "image": values.image,
            "container_name": values.name,
            "run_options": [
                "--ulimit nofile=65536:65536",
                "--shm-size=64g",
                f"-v {values.shared}:{values.shared}",
                f"-e HF_HOME={values.shared}/models",
                "-e RAY_AUTH_MODE=token",
                f"--env-file $HOME/{values.name}.env",
            ],
        },
        "file_mounts": {f"{home}/{TOKEN}": f"~/{TOKEN}"},
        "head_start_ray_commands": [
            "ray stop",
            f"{start} --head --num-cpus=0 --port=6379 --autoscaling-config=~/ray_bootstrap_config.yaml",
        ],
        "worker_start_ray_commands": ["ray stop", f"{start} --address=$RAY_HEAD_IP:6379"],
    }


def dockerfile(values: Values) -> str:
    """The image of head and workers: Ray's own GPU image with this repository and its pinned packages."""
    return f"""\
# docker build -f cluster/Dockerfile -t {values.image} .
FROM rayproject/ray:{values.ray}-py311-gpu
WORKDIR /home/ray/spatialt2i
COPY --chown=ray:users pyproject.toml constraints.txt README.md LICENSE ./
COPY --chown=ray:users conf conf
COPY --chown=ray:users actors actors
COPY --chown=ray:users pipelines pipelines
RUN python -m pip install --no-cache-dir --constraint constraints.txt --editable .
ENV RAY_USAGE_STATS_ENABLED=0 RAY_AUTH_MODE=token
"""

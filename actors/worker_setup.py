"""How an actor's process is set up: its threads, its device, and the resources it requests from Ray.

Drivers and Ray Data's tasks import it for the resources, so torch is imported by the functions that need it.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

NODE_GROUP = "ray.io/node-group"
"""The node label with the name of the node's group. KubeRay sets it; elsewhere use `ray start --labels`."""


NODE_ID = "ray.io/node-id"
"""The node label with Ray's id of the node, which Ray sets."""


def node_selector(node_group: str, avoided: Set[str] = frozenset()) -> dict[str, str]:
    """The label selector for the nodes of one group, without those whose ids are `avoided`. Empty for any node."""
    group = {NODE_GROUP: node_group} if node_group else {}
    return group | ({NODE_ID: f"!in({','.join(sorted(avoided))})"} if avoided else {})


def actor_options(
    threads: int,
    cpus: float,
    gpus: float,
    node_group: str = "",
    runtime_env: Mapping[str, Any] | None = None,
    avoided: Set[str] = frozenset(),
) -> dict[str, Any]:
    """Options for `Actor.options(...)`: resources, node group (empty: any node), threads and runtime environment.

    `runtime_env` is Ray's (None: that of the job). `avoided` are ids of nodes. OpenMP threads sleep when they are idle.
    By default they spin, and then an idle actor takes the core from a busy one: with the defaults of gloo, MKL and
    OpenMP a second process on two cores halves the speed of the first.
    """
    environment = {
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "OMP_WAIT_POLICY": "PASSIVE",
        "KMP_BLOCKTIME": "0",
        "TOKENIZERS_PARALLELISM": "false",
    }
    merged_env = dict(runtime_env or {})
    merged_env["env_vars"] = environment | dict(merged_env.get("env_vars", {}))
    selector = node_selector(node_group, avoided)
    options = {"num_cpus": cpus, "num_gpus": gpus, "runtime_env": merged_env}
    return options | ({"label_selector": selector} if selector else {})


def init_worker(threads: int, gpus: float) -> torch.device:
    """Sets torch's number of threads, silences the libraries, and returns the device. Call it first in an actor.

    Raises RuntimeError if a GPU is reserved but torch finds none.
    """
    import torch
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    torch.set_num_threads(threads)
    diffusers_logging.disable_progress_bar()
    diffusers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    if gpus > 0:
        if not torch.cuda.is_available():
            raise RuntimeError(f"{gpus} GPUs are reserved for this actor, but torch finds none: {_why_no_gpu()}")
        return torch.device("cuda")
    return torch.device("cpu")


def _why_no_gpu() -> str:
    """What keeps torch from using a GPU, and the fix."""
    import torch

    built_for = torch.version.cuda or torch.version.hip
    if not built_for:
        return "it was built without CUDA: install a CUDA build of torch"
    return (
        f"it was built for {'CUDA' if torch.version.cuda else 'ROCm'} {built_for}, and this node's driver may be too "
        "old for it or not work: run nvidia-smi there; update the driver, or install a build of torch for an older CUDA"
    )

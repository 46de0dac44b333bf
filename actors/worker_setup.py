"""How an actor's process is set up: its threads, and what it asks Ray for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

NODE_GROUP = "ray.io/node-group"
"""The label that names a node's group: KubeRay sets it, `ray start --labels` can."""


def node_selector(nodes: str) -> dict[str, str]:
    """The label selector for nodes of one group; empty for any node."""
    return {NODE_GROUP: nodes} if nodes else {}


def actor_options(
    threads: int, cpus: float, gpus: float, nodes: str = "", runtime_env: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Options for `Actor.options(...)`: what to reserve, on nodes of which group (empty: any), a runtime environment
    of Ray's (None: the job's), and OpenMP threads that sleep, not spin, when idle.

    An idle actor that spins takes the core away from the actor that has work: with gloo, MKL and OpenMP defaults a
    second process on two cores would halve the first.
    """
    environment = {
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "OMP_WAIT_POLICY": "PASSIVE",
        "KMP_BLOCKTIME": "0",
        "TOKENIZERS_PARALLELISM": "false",
    }
    own = dict(runtime_env or {})
    own["env_vars"] = environment | dict(own.get("env_vars", {}))
    place = {"label_selector": node_selector(nodes)} if nodes else {}
    return {"num_cpus": cpus, "num_gpus": gpus, "runtime_env": own} | place


def init_worker(threads: int, gpus: float) -> torch.device:
    """Call first in an actor: fixes torch's threads, quietens the libraries, and returns its device.

    Raises RuntimeError where a GPU is reserved but torch sees none.
    """
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    torch.set_num_threads(threads)
    diffusers_logging.disable_progress_bar()
    diffusers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    if gpus > 0:
        if not torch.cuda.is_available():
            raise RuntimeError(f"{gpus} GPUs are reserved for this actor, but torch sees none: install a CUDA build")
        return torch.device("cuda")
    return torch.device("cpu")

"""A frozen base that is sharded over the learner's ranks and gathered block by block in each pass.

This is ZeRO stage 3 for weights that are not trained, with torch's own `fully_shard`. A gather is a collective, so all
ranks must make the same number of passes, in the same order (actors/grpo/passes.py).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard


def shard_frozen(transformer: Any, trained: Iterable[nn.Parameter], device: torch.device) -> None:
    """Shards every frozen weight of a diffusers model over the ranks of the process group. `trained` stay whole.

    A model that was loaded on the CPU is moved to `device` block by block, so that no GPU ever holds all of it. Each
    repeated block is gathered alone; the layers around the blocks stay gathered during a whole pass.
    Raises RuntimeError without a process group.
    """
    if not dist.is_initialized():
        raise RuntimeError("shard_frozen needs torch.distributed.init_process_group first")
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    unsharded = set(trained)
    for parameter in unsharded:
        parameter.data = parameter.data.to(device)  # fully_shard moves the frozen ones
    blocks = [module for module in transformer.modules() if type(module).__name__ in transformer._repeated_blocks]
    for module in (*blocks, transformer):
        fully_shard(module, mesh=mesh, reshard_after_forward=True, ignored_params=unsharded)


def max_over_ranks(count: int, device: torch.device) -> int:
    """The largest count of all ranks. A collective: every rank must call it."""
    most = torch.tensor(count, device=device)
    dist.all_reduce(most, dist.ReduceOp.MAX)
    return int(most)

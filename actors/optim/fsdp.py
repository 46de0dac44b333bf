"""A frozen base cut over the learner's ranks: gathered block by block in each forward and backward pass.

What ZeRO stage 3 does to weights that no optimizer touches, by torch's own `fully_shard`. A gather is a collective, so
all ranks must make their passes in the same number and order.
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
    """Leaves each rank of the process group its part of every frozen weight of a diffusers model; `trained` stay whole.

    A model that was loaded on the CPU comes to `device` block by block, so that no GPU ever holds all of it. Each
    repeated block is gathered alone, what lies around the blocks for the whole of a pass.
    Raises RuntimeError without a process group.
    """
    if not dist.is_initialized():
        raise RuntimeError("shard_frozen needs torch.distributed.init_process_group first")
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    whole = set(trained)
    for parameter in whole:
        parameter.data = parameter.data.to(device)  # the frozen ones are moved by fully_shard
    blocks = [module for module in transformer.modules() if type(module).__name__ in transformer._repeated_blocks]
    for module in (*blocks, transformer):
        fully_shard(module, mesh=mesh, reshard_after_forward=True, ignored_params=whole)


def most_of_ranks(count: int, device: torch.device) -> int:
    """The greatest of the ranks' counts; every rank must ask."""
    most = torch.tensor(count, device=device)
    dist.all_reduce(most, dist.ReduceOp.MAX)
    return int(most)

"""How the ranks of a learner meet: a store of rank 0, then a process group, both before any weights are loaded."""

from __future__ import annotations

from datetime import timedelta

import torch
import torch.distributed as dist
from torch.distributed import TCPStore

from actors.workers.faults import RanksNeverMetError

MEETING_TIMEOUT = timedelta(minutes=30)
"""How long a rank waits for the others: when they meet, and in each collective. They load at different speeds."""


def open_store(host: str, ranks: int) -> TCPStore:
    """Opens the store at which the ranks meet, on a free port of this node. Keep it: the port is never released."""
    return TCPStore(host, 0, ranks, is_master=True, timeout=MEETING_TIMEOUT, wait_for_workers=False)


def join_process_group(address: str, rank: int, ranks: int, device: torch.device, store: TCPStore | None) -> None:
    """Joins the default process group: NCCL on GPUs, else gloo. `address` is host:port of rank 0's store.

    `store`: that store itself, for rank 0. Raises RanksNeverMetError if the ranks do not meet in time.
    """
    host, port = address.rsplit(":", 1)
    on_gpu = device.type == "cuda"
    try:
        if store is None:
            store = TCPStore(host, int(port), ranks, is_master=False, timeout=MEETING_TIMEOUT, wait_for_workers=False)
        dist.init_process_group(
            "nccl" if on_gpu else "gloo",
            store=store,
            rank=rank,
            world_size=ranks,
            timeout=MEETING_TIMEOUT,
            device_id=torch.device("cuda", 0) if on_gpu else None,  # Ray shows a rank its own GPU only
        )
    except (RuntimeError, OSError) as error:
        reason = (str(error).splitlines() or [""])[0]
        raise RanksNeverMetError(f"rank {rank} of {ranks} did not meet the others at {address}: {reason}") from error

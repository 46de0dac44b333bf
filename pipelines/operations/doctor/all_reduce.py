"""Adds up a tensor over all GPUs of the connected cluster, as the ranks of a learner do (`doctor.all_reduce=true`).

Without GPUs it does so over the nodes, by gloo. Every step has a deadline, after which the late ranks are named.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from pipelines.operations.doctor.finding import Finding
from pipelines.operations.doctor.node_tasks import live_nodes, node_name

DEADLINE_S = 120.0
"""Seconds that each step may take: a process imports torch, and NCCL connects every GPU with others."""
MEBIBYTES = {"nccl": 256, "gloo": 16}
"""Size of the tensor."""
REPEATS = 5

BUSY_FIX = "run it while no job uses the GPUs, or see `ray logs` of these nodes"
NETWORK_FIX = "open all ports between the nodes: firewall, security group or NetworkPolicy"
NCCL_FIX = (
    "set NCCL_DEBUG=INFO for Ray's processes and read their logs; several network cards: NCCL_SOCKET_IFNAME (for gloo "
    "GLOO_SOCKET_IFNAME); a container needs /dev/shm of 1 GB or more"
)


@dataclass(frozen=True)
class Timing:
    """What one rank measured."""

    seconds: float
    """Of the fastest repetition."""
    right: bool
    """Whether every element was the sum."""


class ReducingRank:
    """One rank. It runs as a Ray actor."""

    def __init__(self, rank: int, ranks: int) -> None:
        self.rank, self.ranks = rank, ranks

    def ready(self) -> bool:
        """Returns once the process runs."""
        import torch.distributed

        return torch.distributed.is_available()

    def open_store(self) -> str:
        """Opens the store at which the ranks meet, on rank 0. Returns host:port."""
        import ray

        from actors.workers.process_group import open_store

        host = ray.util.get_node_ip_address()
        self.store = open_store(host, self.ranks)
        return f"{host}:{self.store.port}"

    def meet(self, address: str) -> bool:
        """Connects to the store of rank 0."""
        from torch.distributed import TCPStore

        if self.rank:
            host, _, port = address.rpartition(":")
            deadline = timedelta(seconds=DEADLINE_S)
            self.store = TCPStore(
                host, int(port), self.ranks, is_master=False, timeout=deadline, wait_for_workers=False
            )
        return True

    def reduce(self, backend: str, mebibytes: int) -> Timing:
        """Adds up a float32 tensor over the ranks, REPEATS times after a first one."""
        import torch
        import torch.distributed as dist

        device = torch.device("cuda" if backend == "nccl" else "cpu")
        deadline = timedelta(seconds=DEADLINE_S)
        dist.init_process_group(backend, store=self.store, rank=self.rank, world_size=self.ranks, timeout=deadline)
        seconds, right = [], True
        for _ in range(REPEATS + 1):
            values = torch.full((mebibytes * 2**18,), self.rank + 1.0, device=device)  # [mebibytes · 2^20 / 4]
            dist.barrier()
            started = time.perf_counter()
            dist.all_reduce(values)
            if device.type == "cuda":
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - started)
            right = right and bool((values == self.ranks * (self.ranks + 1) / 2).all())
        dist.destroy_process_group()
        return Timing(min(seconds[1:]), right)


def check_all_reduce(
    rank_class: type[ReducingRank] = ReducingRank, meet_within_s: float = DEADLINE_S
) -> Iterator[Finding]:
    """One finding about the all-reduce over all GPUs; without GPUs over all nodes, and at least two processes.

    `meet_within_s` is for the second step, in which the ranks connect to rank 0.
    """
    import ray

    with_gpus = live_nodes(with_gpus=True)
    backend = "nccl" if with_gpus else "gloo"
    nodes = with_gpus or live_nodes()
    per_node = [int(node["Resources"]["GPU"]) if with_gpus else 2 // len(nodes) or 1 for node in nodes]
    places = [node for node, count in zip(nodes, per_node, strict=True) for _ in range(count)]
    if len(places) < 2:
        yield Finding(True, "all-reduce: one GPU, nothing to add up")
        return
    actors = [_start(rank_class, place, rank, len(places), backend == "nccl") for rank, place in enumerate(places)]
    try:
        yield _reduce(actors, [node_name(place) for place in places], backend, meet_within_s)
    finally:
        for actor in actors:
            ray.kill(actor)


def _start(rank_class: type[ReducingRank], node: Mapping[str, Any], rank: int, ranks: int, gpu: bool) -> Any:
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    affinity = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
    options: dict[str, Any] = {"num_cpus": 0, "num_gpus": 1 if gpu else 0, "scheduling_strategy": affinity}
    return ray.remote(rank_class).options(**options).remote(rank, ranks)


def _reduce(actors: Sequence[Any], names: Sequence[str], backend: str, meet_within_s: float) -> Finding:
    ranks, mebibytes = len(actors), MEBIBYTES[backend]
    what = f"all-reduce over {ranks} {'GPUs' if backend == 'nccl' else 'processes'} by {backend}"
    steps = (
        ("did not start", BUSY_FIX, DEADLINE_S, lambda: [actor.ready.remote() for actor in actors]),
        ("did not reach rank 0", NETWORK_FIX, meet_within_s, lambda: _meet(actors)),
        (
            "did not add up",
            NCCL_FIX,
            DEADLINE_S,
            lambda: [actor.reduce.remote(backend, mebibytes) for actor in actors],
        ),
    )
    answers: list[Any] = []
    for problem, fix, deadline_s, call in steps:
        answers, late, reason = _answers(call(), deadline_s)
        if late:
            where = ", ".join(f"{rank} ({names[rank]})" for rank in late[:8]) + (", …" if len(late) > 8 else "")
            return Finding(
                False, f"{what}: {len(late)} ranks {problem} within {deadline_s:.0f} s: {where}{reason}", fix
            )
    timings: list[Timing] = answers
    if wrong := [str(rank) for rank, timing in enumerate(timings) if not timing.right]:
        fix = "a GPU or its link is faulty: run `nvidia-smi -q`, dcgmi diag and nccl-tests on that node"
        return Finding(False, f"{what}: wrong sums on ranks {', '.join(wrong)}", fix)
    seconds = max(timing.seconds for timing in timings)
    rate = 2 * (ranks - 1) / ranks * mebibytes * 2**20 / seconds / 1e9  # the bus bandwidth of nccl-tests
    nodes = len(dict.fromkeys(names))
    return Finding(True, f"{what} on {nodes} node{'s' * (nodes > 1)}: right, {rate:.3g} GB/s of bus bandwidth")


def _meet(actors: Sequence[Any]) -> list[Any]:
    address = actors[0].open_store.remote()
    return [actor.meet.remote(address) for actor in actors]


def _answers(calls: Sequence[Any], deadline_s: float) -> tuple[list[Any], list[int], str]:
    """The results; the ranks that gave none in time; and the first error, as the end of a message."""
    import ray
    from ray.exceptions import RayError

    done, _ = ray.wait(list(calls), num_returns=len(calls), timeout=deadline_s)
    results, late, reason = list[Any](), list[int](), ""
    for rank, call in enumerate(calls):
        try:
            results.append(ray.get(call) if call in done else None)
        except RayError as error:
            reason = reason or f"; {str(error).strip().splitlines()[-1]:.200}"
            late.append(rank)
        else:
            if call not in done:
                late.append(rank)
    return results, late, reason

"""What torch.compile saves: pointwise operations between two matrix products become one kernel.

The rule: neighbours that are neither a matrix product, nor attention, form one kernel. It reads each storage from
outside once, and writes only what a later operation outside reads. What is computed and used inside moves no bytes.
Real compilers split some of these regions and reorder others, so this is an estimate.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from pipelines.planning.ops import Op


def fuse(ops: Sequence[Op]) -> list[Op]:
    """The operations of a compiled program, in order."""
    last_read: dict[int, int] = {}
    for position, op in enumerate(ops):
        last_read |= dict.fromkeys(op.reads, position)
    fused: list[Op] = []
    for is_traffic, region in groupby(enumerate(ops), key=lambda pair: pair[1].kind == "traffic"):
        members = list(region)
        if is_traffic:
            fused.append(_one_kernel([op for _, op in members], members[-1][0], last_read))
        else:
            fused += [op for _, op in members]
    return fused


def _one_kernel(ops: Sequence[Op], end: int, last_read: dict[int, int]) -> Op:
    """One region as one kernel. `end`: position of its last operation."""
    reads: dict[int, float] = {}
    writes: dict[int, float] = {}
    for op in ops:
        for storage, size in op.reads.items():
            if storage not in writes:
                reads[storage] = max(size, reads.get(storage, 0.0))
        for storage, size in op.writes.items():
            writes[storage] = max(size, writes.get(storage, 0.0))
    used_later = {storage: size for storage, size in writes.items() if last_read.get(storage, -1) > end}
    return Op("traffic", ops[0].dtype, 0.0, reads, used_later)

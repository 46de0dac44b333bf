"""Recorded operations as arrays, and how long a GPU takes for them at any number of rows.

Roofline: a kernel takes the longer of its arithmetic and its traffic, each at the share of the peak that real kernels
reach, and never less than LAUNCH_S. A program takes the sum over its kernels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from pipelines.planning.fusion import fuse
from pipelines.planning.gpus import ATTENTION_EFFICIENCY, MATMUL_EFFICIENCY, TRAFFIC_EFFICIENCY, GpuType
from pipelines.planning.ops import Op, Trace

LAUNCH_S = 4e-6
"""Seconds of the smallest kernel. The host launches ahead, so its own time does not count."""


@dataclass(frozen=True)
class Flops:
    """Floating-point operations, by the units that execute them."""

    bf16: float
    """Matrix products and attention in bfloat16, on tensor cores."""
    fp32: float
    """The same in float32."""

    @property
    def total(self) -> float:
        """Both."""
        return self.bf16 + self.fp32


@dataclass(frozen=True)
class Work:
    """The kernels of one recorded program, N of them. FLOPs and traffic grow linearly with the rows of a batch."""

    rows: int
    """Rows of the recording."""
    flops: np.ndarray  # [N]
    is_attention: np.ndarray  # [N] bool
    is_fp32: np.ndarray  # [N] bool
    constant: np.ndarray  # [N] bytes of weights, which do not grow with the rows
    growing: np.ndarray  # [N] bytes of activations

    @classmethod
    def of(cls, trace: Trace, rows: int, compiled: bool = False, forward: bool = False) -> Work:
        """The kernels of a recording of `rows` rows, or only those of its forward pass.

        `compiled`: as torch.compile fuses them.
        """
        ops = trace.forward if forward else trace.ops
        ops = fuse(ops) if compiled else ops
        constant = np.array([_bytes(op, trace.constant.__contains__) for op in ops])
        return cls(
            rows=rows,
            flops=np.array([op.flops for op in ops]),
            is_attention=np.array([op.kind == "attention" for op in ops]),
            is_fp32=np.array([op.dtype in (torch.float32, torch.float64) for op in ops]),
            constant=constant,
            growing=np.array([_bytes(op, lambda _: True) for op in ops]) - constant,
        )

    def seconds(self, gpu: GpuType, rows: float) -> float:
        """Predicted seconds of `rows` rows."""
        peak = np.where(self.is_fp32, gpu.fp32_tflops, gpu.bf16_tflops) * 1e12
        reached = np.where(self.is_attention, ATTENTION_EFFICIENCY, MATMUL_EFFICIENCY)
        arithmetic = self.flops * (rows / self.rows) / (peak * reached)
        traffic = self._bytes(rows) / (gpu.bandwidth_tb_s * 1e12 * TRAFFIC_EFFICIENCY)
        return float(np.maximum(np.maximum(arithmetic, traffic), LAUNCH_S).sum())

    def counted_flops(self, rows: float) -> Flops:
        """FLOPs of `rows` rows."""
        flops = self.flops * (rows / self.rows)
        return Flops(float(flops[~self.is_fp32].sum()), float(flops[self.is_fp32].sum()))

    def moved_bytes(self, rows: float) -> float:
        """Bytes read and written with `rows` rows."""
        return float(self._bytes(rows).sum())

    def _bytes(self, rows: float) -> np.ndarray:
        return self.constant + self.growing * (rows / self.rows)


@dataclass(frozen=True)
class Program:
    """A sum of recorded programs, each a number of times: e.g. 19 double blocks, 38 single blocks and the rest."""

    parts: tuple[tuple[float, Work], ...]

    def __add__(self, other: Program) -> Program:
        return Program(self.parts + other.parts)

    def __mul__(self, times: float) -> Program:
        return Program(tuple((times * count, work) for count, work in self.parts))

    def seconds(self, gpu: GpuType, rows: float) -> float:
        """Predicted seconds of `rows` rows."""
        return sum(count * work.seconds(gpu, rows) for count, work in self.parts)

    def flops(self, rows: float) -> Flops:
        """FLOPs of `rows` rows."""
        each = [(count, work.counted_flops(rows)) for count, work in self.parts]
        return Flops(sum(count * flops.bf16 for count, flops in each), sum(count * flops.fp32 for count, flops in each))

    def bytes(self, rows: float) -> float:
        """Bytes moved with `rows` rows."""
        return sum(count * work.moved_bytes(rows) for count, work in self.parts)


NOTHING = Program(())


def of_depth(base: Work, longer: Sequence[Work], depths: Sequence[int]) -> Program:
    """A model with `depths` blocks of each kind.

    `base` is a recording with one block of each kind, and each of `longer` has one block more of one kind. Blocks of a
    kind are alike, so each costs the difference.
    """
    extra = [(depth - 1.0, work) for depth, work in zip(depths, longer, strict=True)]
    return Program(((1.0 - sum(count for count, _ in extra), base), *extra))


def blocks(base: Work, longer: Work, count: float) -> Program:
    """`count` blocks of one kind, without the rest of the model."""
    return Program(((count, longer), (-count, base)))


def _bytes(op: Op, chosen: Callable[[int], bool]) -> float:
    sides = (op.reads, op.writes)
    return float(sum(size for side in sides for storage, size in side.items() if chosen(storage)))

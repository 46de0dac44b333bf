"""Operations of a small model on the meta device, against numbers worked out by hand."""

from __future__ import annotations

from functools import partial

import torch
from torch import nn

from pipelines.planning.fusion import fuse
from pipelines.planning.gpus import GPU_TYPES
from pipelines.planning.ops import Op, meta_device, trace
from pipelines.planning.work import LAUNCH_S, Work, of_depth

ROWS, WIDTH = 6, 1024
BF16 = 2  # bytes


def _forward(model: nn.Module) -> torch.Tensor:
    return model(torch.empty(ROWS, WIDTH, dtype=torch.bfloat16, device="meta"))


def _linears(count: int) -> nn.Sequential:
    with meta_device(torch.bfloat16):
        return nn.Sequential(*(nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(count)))


def test_a_linear_layer_costs_its_products_and_weights_do_not_grow_with_the_rows() -> None:
    work = Work.of(trace(partial(_forward, _linears(1)), backward=False), ROWS)
    assert work.counted_flops(ROWS).bf16 == 2 * ROWS * WIDTH**2
    assert work.counted_flops(3 * ROWS).total == 6 * ROWS * WIDTH**2
    weights, activations = BF16 * WIDTH**2, 2 * BF16 * ROWS * WIDTH
    assert work.moved_bytes(ROWS) == weights + activations
    assert work.moved_bytes(3 * ROWS) == weights + 3 * activations
    gpu = GPU_TYPES["H100"]
    traffic = (weights + activations) / (gpu.bandwidth_tb_s * 1e12 * 0.8)
    assert work.seconds(gpu, ROWS) == max(traffic, LAUNCH_S)


def test_the_backward_pass_of_trained_layers_has_twice_the_products_and_keeps_the_inputs() -> None:
    recorded = trace(partial(_forward, _linears(3)), backward=True)
    forward = Work.of(recorded, ROWS, forward=True).counted_flops(ROWS).total
    assert Work.of(recorded, ROWS).counted_flops(ROWS).total == 3 * forward - forward / 3  # none for the first input
    assert recorded.kept == (1 + 3) * BF16 * ROWS * WIDTH  # input and output of each layer


def test_attention_is_one_kernel_that_keeps_no_scores() -> None:
    def attend(length: int) -> torch.Tensor:
        q, k, v = torch.empty(3, 2, 4, length, 64, dtype=torch.bfloat16, device="meta", requires_grad=True).unbind()
        return nn.functional.scaled_dot_product_attention(q, k, v)

    recorded = trace(partial(attend, 512), backward=True)
    kernels = [op.flops for op in recorded.ops if op.kind == "attention"]
    forward = 4 * 2 * 4 * 512**2 * 64
    assert kernels == [forward, 2.5 * forward]
    assert trace(partial(attend, 1024), backward=True).kept == 2 * recorded.kept  # linear in the length
    assert nn.functional.scaled_dot_product_attention.__module__ != "pipelines.planning.ops"  # put back


def test_blocks_that_are_alike_follow_from_one_more_block() -> None:
    works = [Work.of(trace(partial(_forward, _linears(count)), backward=False), ROWS) for count in (1, 2, 7)]
    program = of_depth(works[0], [works[1]], [7])
    assert program.flops(ROWS) == works[2].counted_flops(ROWS)
    assert program.bytes(5) == works[2].moved_bytes(5)


def test_fused_neighbours_move_what_comes_from_outside_and_what_is_used_later() -> None:
    def op(reads: dict[int, float], writes: dict[int, float], flops: float = 0.0) -> Op:
        return Op("matmul" if flops else "traffic", torch.float32, flops, reads, writes)

    ops = [
        op({0: 10}, {1: 10}),  # 1 is used inside only
        op({1: 10, 2: 5}, {3: 10}),  # 3 is used by the product, and 2 comes from outside
        op({3: 10}, {4: 10}, flops=100),
        op({4: 10}, {5: 10}),  # nobody reads 5
    ]
    fused = fuse(ops)
    assert [(dict(each.reads), dict(each.writes)) for each in fused] == [
        ({0: 10, 2: 5}, {3: 10}),
        ({3: 10}, {4: 10}),
        ({4: 10}, {}),
    ]

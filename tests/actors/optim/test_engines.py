"""DeepSpeed on two ranks makes the same steps as plain torch on one rank, and resumes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing as multiprocessing
from torch import nn

from actors.optim.torch_engine import OptimizerSettings, TorchEngine, TorchModel
from tests.support.ports import free_port
from tests.support.ranks import end_rank

SETTINGS = OptimizerSettings(betas=(0.9, 0.99), weight_decay=1e-2, max_grad_norm=0.5)
STEPS = 4
PASSES = (1, 3)


def parameters() -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(shape, generator=generator)) for shape in ((3, 5), (7,), (2, 2))]


def backward(weights: list[nn.Parameter], step: int, part: int, scale: float) -> None:
    """The gradient of one of the four groups of a step; each group has its own data."""
    generator = torch.Generator().manual_seed(10 * step + part)
    losses = [((w - torch.randn(w.shape, generator=generator)) ** 2).sum() for w in weights]
    (torch.stack(losses).sum() * scale).backward()


def run_rank(rank: int, port: int, zero_stage: int, folder: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    from actors.optim.deepspeed_engine import DeepSpeedEngine

    weights = parameters()
    engine = DeepSpeedEngine(weights, SETTINGS, zero_stage)
    norms = []
    for step in range(STEPS):
        if step == 2:  # a new engine continues from the state of the first one
            saved = engine.state_dict()
            engine = DeepSpeedEngine(weights, SETTINGS, zero_stage)
            engine.load_state_dict(saved)
        # rank 0 has three of the four groups, rank 1 has one: their numbers of backward passes differ
        for part in (0, 1, 2) if rank == 0 else (3,):
            backward(weights, step, part, scale=2 / 4)
        norms.append(engine.step(lr=0.1).grad_norm)
    weights[0].grad = torch.full_like(weights[0], float("nan")) if rank == 1 else None
    refused = engine.step(lr=0.1)
    assert not refused.applied and engine.ranks == 2
    assert not engine.step(lr=0.1).applied  # no rank has a gradient
    torch.save(([w.detach() for w in weights], norms), f"{folder}/{rank}.pt")
    end_rank()


@pytest.mark.slow
@pytest.mark.parametrize("zero_stage", [1, 2])
def test_two_ranks_equal_one_rank(zero_stage: int, tmp_path: Path) -> None:
    """Up to floating-point order: DeepSpeed sums gradients over ranks before it averages them."""
    weights = parameters()
    engine = TorchEngine(weights, SETTINGS)
    norms = []
    for step in range(STEPS):
        for part in range(4):
            backward(weights, step, part, scale=1 / 4)
        norms.append(engine.step(lr=0.1).grad_norm)
    multiprocessing.spawn(run_rank, args=(free_port(), zero_stage, str(tmp_path)), nprocs=2)
    for rank in (0, 1):
        theirs, their_norms = torch.load(tmp_path / f"{rank}.pt")
        for one, other in zip(weights, theirs, strict=True):
            torch.testing.assert_close(one.detach(), other, atol=1e-6, rtol=1e-5)
        assert their_norms == pytest.approx(norms, rel=1e-5)


class HalfFrozen(nn.Module):
    """A frozen bfloat16 layer, like SpatialScore's backbone, between trained float32 layers of odd sizes."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Linear(6, 9), nn.Linear(9, 1)
        self.frozen = nn.Linear(9, 9).bfloat16().requires_grad_(False)

    def forward(self, data: torch.Tensor) -> torch.Tensor:
        hidden = self.first(data).tanh()
        return self.last(hidden + self.frozen(hidden.bfloat16()).float())


def restored(weights: list[torch.Tensor]) -> HalfFrozen:
    model = HalfFrozen()
    with torch.no_grad():
        for parameter, weight in zip((p for p in model.parameters() if p.requires_grad), weights, strict=True):
            parameter.copy_(weight)
    return model


def run_model(engine: Any, step: int, rows: range, ranks: int, passes: int = 1) -> float:
    """One step on some rows of eight in passes of unequal size; returns the norm of the whole gradient."""
    data = torch.randn(8, 7, generator=torch.Generator().manual_seed(step))
    for number in range(passes):
        part = data[rows[0] + number : rows[-1] + 1 if number == passes - 1 else rows[0] + number + 1]
        loss = (engine(part[:, :6]) - part[:, 6:]).square().sum() * ranks / 8
        engine.backward(loss, last=number == passes - 1)
    return engine.step(lr=0.05).grad_norm


def run_model_rank(rank: int, port: int, zero_stage: int, folder: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    for passes in PASSES:
        torch.save(run_steps(rank, zero_stage, passes), f"{folder}/{rank}-{passes}.pt")
    end_rank()


def run_steps(rank: int, zero_stage: int, passes: int) -> tuple[list[torch.Tensor], dict[str, Any], list[float]]:
    """Weights, moments and norms of STEPS steps on this rank's four rows; a refused step; the norm of one more."""
    from actors.optim.deepspeed_engine import DeepSpeedModel

    rows, norms = range(4 * rank, 4 * rank + 4), list[float]()
    engine = DeepSpeedModel(HalfFrozen(), SETTINGS, zero_stage, param_persistence_threshold=0)
    for step in range(STEPS):
        if step == 2:  # a new engine continues from the state of the first one
            weights, state = engine.weights(), engine.state_dict()
            engine = DeepSpeedModel(restored(weights), SETTINGS, zero_stage, param_persistence_threshold=8)
            engine.load_state_dict(state)
        norms.append(run_model(engine, step, rows, ranks=2, passes=passes))
    weights, state = engine.weights(), engine.state_dict()
    for number in range(passes):  # the gradient of one pass of one rank is not finite
        nothing = torch.full((1, 6), float("nan") if rank and not number else 1.0)
        engine.backward(engine(nothing).sum(), last=number == passes - 1)
    assert not engine.step(lr=0.05).applied
    assert all(torch.equal(one, other) for one, other in zip(engine.weights(), weights, strict=True))
    norms.append(run_model(engine, 0, rows, ranks=2, passes=passes))
    return weights, state, norms


@pytest.mark.slow
@pytest.mark.parametrize("zero_stage", [1, 2, 3])
def test_a_model_with_zero_equals_the_plain_one_and_resumes(zero_stage: int, tmp_path: Path) -> None:
    """A run on two ranks ends with the weights and the moments of the plain run, in one pass a step or in three."""
    plain = TorchModel(HalfFrozen(), SETTINGS)
    norms = [run_model(plain, step, range(8), ranks=1) for step in range(STEPS)]
    expected = plain.weights()
    moments = [[moment["exp_avg"].clone(), moment["exp_avg_sq"].clone()] for moment in plain.optimizer.state.values()]
    norms.append(run_model(plain, 0, range(8), ranks=1))  # that of the step after the refused one
    multiprocessing.spawn(run_model_rank, args=(free_port(), zero_stage, str(tmp_path)), nprocs=2)
    for file in (tmp_path / f"{rank}-{passes}.pt" for rank in (0, 1) for passes in PASSES):
        weights, state, their_norms = torch.load(file)
        torch.testing.assert_close(weights, expected, atol=1e-6, rtol=1e-5)
        assert their_norms == pytest.approx(norms, rel=1e-5)
        torch.testing.assert_close(state, {"step": STEPS, "moments": moments}, atol=1e-7, rtol=1e-4)


@pytest.mark.parametrize("passes", [2, 8])
def test_the_passes_of_a_plain_model_add_up(passes: int) -> None:
    whole, cut = TorchModel(HalfFrozen(), SETTINGS), TorchModel(HalfFrozen(), SETTINGS)
    norms = [
        [run_model(model, step, range(8), 1, count) for step in range(STEPS)]
        for model, count in ((whole, 1), (cut, passes))
    ]
    assert norms[1] == pytest.approx(norms[0], rel=1e-5)
    torch.testing.assert_close(cut.weights(), whole.weights(), atol=1e-6, rtol=1e-5)


def test_torch_engine_skips_a_missing_or_infinite_gradient() -> None:
    weights = parameters()
    engine = TorchEngine(weights, SETTINGS)
    assert not engine.step(lr=0.1).applied
    weights[0].grad = torch.full_like(weights[0], float("inf"))
    assert not engine.step(lr=0.1).applied
    assert all(torch.equal(one, other) for one, other in zip(weights, parameters(), strict=True))
    assert weights[0].grad is None


def test_torch_engine_clips_and_uses_the_learning_rate() -> None:
    """Adam's first step is lr for each element, whatever the gradient; the reported norm is that before clipping."""
    weights = parameters()
    engine = TorchEngine(weights, replace(SETTINGS, weight_decay=0.0))
    for weight in weights:
        weight.grad = torch.full_like(weight, 2.0)
    result = engine.step(lr=0.25)
    assert result.applied and result.grad_norm == pytest.approx(2 * (15 + 7 + 4) ** 0.5)
    for weight, before in zip(weights, parameters(), strict=True):
        torch.testing.assert_close(weight.detach(), before.detach() - 0.25)
        assert weight.grad is None

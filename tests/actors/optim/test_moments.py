"""AdamW's moments move between plain torch and slices of any number of ranks, and nothing is lost."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing as multiprocessing
from torch import nn

from actors.optim.moments import gather_moments, state_of_slice
from actors.optim.moved_state import move_state
from actors.optim.torch_engine import OptimizerSettings, TorchEngine
from tests.support.ports import free_port
from tests.support.ranks import end_rank

SETTINGS = OptimizerSettings(betas=(0.9, 0.99), weight_decay=1e-2, max_grad_norm=0.5)
SHAPES = ((3, 4), (8,), (2, 5))


def parameters() -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(shape, generator=generator)) for shape in SHAPES]


def step(engine: Any, number: int) -> None:
    generator = torch.Generator().manual_seed(number)
    for weight in engine.parameters:
        weight.grad = torch.randn(weight.shape, generator=generator)
    assert engine.step(lr=0.1).applied


def stepped() -> TorchEngine:
    engine = TorchEngine(parameters(), SETTINGS)
    for number in range(2):
        step(engine, number)
    return engine


def shards(engine: TorchEngine, ranks: int) -> list[dict[str, Any]]:
    """The states of `ranks` ZeRO ranks, of equal sizes: those of DeepSpeed, as the slow test below shows."""
    moments = gather_moments([engine.state_dict()], engine.parameters)
    assert moments
    size = -(-30 // (2 * ranks)) * 2
    return [
        {"state": state_of_slice(moments, engine.parameters, rank, size), "param_groups": [{"params": [0]}]}
        for rank in range(ranks)
    ]


@pytest.mark.parametrize("ranks", [1, 2, 4, 7])
def test_an_engine_goes_on_from_the_slices_of_others(ranks: int) -> None:
    engine, other = stepped(), TorchEngine(parameters(), SETTINGS)
    with torch.no_grad():
        for mine, theirs in zip(other.parameters, engine.parameters, strict=True):
            mine.copy_(theirs)
    states = shards(engine, ranks)
    assert not other.fits(states[0], ranks) and other.fits(engine.state_dict(), 1)
    moved = move_state(other, states[0], ranks, lambda: states)
    assert moved.note == f"moved from {ranks} to 1 ranks, exactly"
    other.load_state_dict(dict(moved.state))
    for each in (engine, other):
        step(each, 2)
    assert all(torch.equal(one, two) for one, two in zip(engine.parameters, other.parameters, strict=True))


def test_a_state_without_steps_is_none() -> None:
    engine = TorchEngine(parameters(), SETTINGS)
    assert gather_moments([engine.state_dict()], engine.parameters) is None
    other = stepped()
    other.load_state_dict(other.state_from(None))
    assert not other.state_dict()["state"]


def test_the_state_of_the_same_ranks_is_taken_as_it_is() -> None:
    engine, saved = TorchEngine(parameters(), SETTINGS), stepped().state_dict()
    moved = move_state(engine, saved, 1, list)
    assert moved.state is saved and not moved.note


def test_a_state_that_cannot_be_moved_is_dropped_and_the_reason_is_said() -> None:
    engine, incomplete = TorchEngine(parameters(), SETTINGS), shards(stepped(), 4)[:2]
    moved = move_state(engine, None, 4, lambda: incomplete)
    assert not moved.state["state"]
    assert moved.note.startswith("dropped, AdamW begins with empty moments: it holds the moments of 16 elements, and ")


@pytest.mark.parametrize(
    ("states", "message"),
    [
        ([{}], "no state of AdamW"),
        (lambda: shards(stepped(), 4)[:2], "moments of 16 elements, and the LoRA has 30"),
        ([{"param_groups": [{"params": [0]}], "state": {0: {"step": 1.0}}}], "no state of AdamW: KeyError 'exp_avg'"),
    ],
)
def test_another_state_is_refused(states: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        gather_moments(states() if callable(states) else states, parameters())


def test_gaps_between_parameters_are_not_guessed() -> None:
    odd = [nn.Parameter(torch.zeros(3)), nn.Parameter(torch.zeros(5))]
    with pytest.raises(ValueError, match="a parameter has 12 bytes"):
        gather_moments([{"param_groups": [{"params": [0]}], "state": shards(stepped(), 1)[0]["state"]}], odd)


def test_a_restored_optimizer_has_the_options_of_now() -> None:
    engine = TorchEngine(parameters(), replace(SETTINGS, weight_decay=0.5))
    engine.load_state_dict(stepped().state_dict())
    assert engine.optimizer.param_groups[0]["weight_decay"] == 0.5 and len(engine.optimizer.state) == len(SHAPES)


def run_rank(rank: int, port: int, folder: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    from actors.optim.deepspeed_engine import DeepSpeedEngine

    before, plain = stepped(), TorchEngine(parameters(), SETTINGS)
    engine = DeepSpeedEngine(before.parameters, SETTINGS, 2)
    engine.load_state_dict(dict(move_state(engine, before.state_dict(), 1, lambda: [before.state_dict()]).state))
    step(engine, 2)
    states: list[Any] = [None, None]
    torch.distributed.all_gather_object(states, engine.state_dict())
    assert engine.fits(states[rank], 2) and not engine.fits(states[rank], 4)
    plain.load_state_dict(dict(move_state(plain, None, 2, lambda: states).state))
    torch.save((plain.state_dict()["state"], [p.detach() for p in engine.parameters]), f"{folder}/{rank}.pt")
    end_rank()


@pytest.mark.slow
def test_deepspeed_takes_and_gives_the_moments_of_plain_torch(tmp_path: Path) -> None:
    multiprocessing.spawn(run_rank, args=(free_port(), str(tmp_path)), nprocs=2)
    engine = stepped()
    step(engine, 2)
    for rank in (0, 1):
        state, weights = torch.load(tmp_path / f"{rank}.pt")
        for index, mine in engine.state_dict()["state"].items():
            for key in ("step", "exp_avg", "exp_avg_sq"):
                torch.testing.assert_close(state[index][key], mine[key], atol=1e-7, rtol=1e-5)
        for one, two in zip(weights, engine.parameters, strict=True):
            torch.testing.assert_close(one, two.detach(), atol=1e-6, rtol=1e-5)

"""Two real learner ranks: how they meet, what each writes, how they continue, and how they are lost."""

from __future__ import annotations

import asyncio
import io
import socket
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch

from actors.files import digest, join, read_file, write_file
from actors.workers import process_group
from actors.workers.faults import RanksNeverMetError
from actors.workers.learner import LearnerJob, LearnerRank
from actors.workers.learner_group import LearnerGroup, LearnerLostError, start_learner
from conf import Settings
from pipelines.policy.checkpoint import Checkpoints, Manifest
from pipelines.policy.checkpoint_writer import write_checkpoint

SettingsOf = Callable[..., Settings]


class Stateful:
    """A GrpoLearner that has a state and nothing else."""

    def state_dict(self) -> dict[str, Any]:
        return {"version": 3, "optimizer_steps": 6, "lora": {}, "ema": {}, "engine": {"shard": torch.ones(2)}}


@pytest.mark.parametrize(
    ("rank", "names"), [(0, {"version", "optimizer_steps", "lora", "ema", "engine"}), (1, {"version", "engine"})]
)
def test_what_all_ranks_share_is_written_by_rank_0_only(rank: int, names: set[str], settings_of: SettingsOf) -> None:
    settings = settings_of(Path("unused"))
    learner = LearnerRank(LearnerJob("", settings.flux, settings.policy), rank)
    learner.learner = cast(Any, Stateful())
    content = learner.state()
    assert torch.load(io.BytesIO(content.tobytes()), weights_only=True).keys() == names
    assert not content.flags.owndata, "a copy of all bytes"


def test_rank_0_keeps_its_port_and_says_whom_it_did_not_meet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_group, "MEETING_TIMEOUT", timedelta(milliseconds=300))
    store = process_group.open_store("127.0.0.1", 2)
    with socket.socket() as other, pytest.raises(OSError, match="in use"):
        other.bind(("", store.port))
    address = f"127.0.0.1:{store.port}"
    with pytest.raises(RanksNeverMetError, match=rf"rank 0 of 2 did not meet the others at {address}: wait timeout"):
        process_group.join_process_group(address, 0, 2, torch.device("cpu"), store)
    assert not torch.distributed.is_initialized()


def give_gradient(rank: Any, value: float) -> None:
    """Runs in a rank's process."""
    for number, parameter in enumerate(rank.learner.engine.parameters):
        parameter.grad = torch.full_like(parameter, value * (number + 1))


def break_device(rank: Any) -> None:
    """Runs in a rank's process: its next optimizer step fails as CUDA fails."""

    def fail(grad_divisor: float) -> None:
        raise torch.AcceleratorError("CUDA error: unspecified launch failure")

    rank.learner.optimizer_step = fail


async def step(group: LearnerGroup) -> dict[str, np.ndarray]:
    """An optimizer step on gradients that differ between the ranks. Returns the weights after it."""
    await asyncio.gather(
        *(rank.__ray_call__.remote(give_gradient, 0.5 - number) for number, rank in enumerate(group.ranks))
    )
    metrics = await group.optimizer_step(1.0)
    assert metrics.applied
    return await weights_of(group)


async def weights_of(group: LearnerGroup) -> dict[str, np.ndarray]:
    handle = await group.publish()
    assert handle.reference
    return dict((await handle.reference).lora)


def same(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[key], other[key]) for key in one)


def without_rank_0(checkpoints: Checkpoints) -> dict[str, str]:
    """Writes version 2 as older versions did, from version 1: every rank has everything. Returns the digests."""
    digests: dict[str, str] = {}
    common = torch.load(io.BytesIO(read_file(join(checkpoints.folder(1), "rank-0.pt"))), weights_only=True)
    for name in ("rank-0.pt", "rank-1.pt"):
        own = torch.load(io.BytesIO(read_file(join(checkpoints.folder(1), name))), weights_only=True)
        buffer = io.BytesIO()
        torch.save(common | own, buffer)
        write_file(join(checkpoints.folder(2), name), buffer.getvalue())
        digests[name] = digest(buffer.getvalue())
    return digests


@pytest.mark.ray
@pytest.mark.slow
def test_two_ranks_continue_from_a_checkpoint_and_name_the_rank_that_failed(
    ray_cluster: None, settings_of: SettingsOf, tmp_path: Path
) -> None:
    settings = settings_of(
        tmp_path, "policy.learner.ranks=2", "policy.learner.engine=deepspeed",
        "policy.algorithm.base_regularizer_weight=0",
    )  # fmt: skip
    job = LearnerJob(settings.flux.model, settings.flux, settings.policy)
    checkpoints = Checkpoints(str(tmp_path / "checkpoints"), keep=9)

    async def run() -> None:
        first, second = start_learner(job), start_learner(job)
        await asyncio.gather(first.placed(), second.placed())
        await asyncio.gather(first.start(), second.start())  # each at the port of its own store
        try:
            saved = await step(first)
            await first.end_iteration()
            await write_checkpoint(checkpoints, Manifest(1, 0.0, {}), first.states())
            expected = await step(first)
            assert not same(saved, expected)
            (manifest,) = checkpoints.manifests()
            assert set(manifest.files) == {"rank-0.pt", "rank-1.pt"}

            assert await second.load(checkpoints.folder(1), manifest.files) == 1
            assert same(await weights_of(second), saved)
            assert same(await step(second), expected), "the moments of both ranks are restored"
            assert await second.load(checkpoints.folder(2), without_rank_0(checkpoints)) == 1
            assert same(await step(second), expected), "an older checkpoint"

            await second.ranks[1].__ray_call__.remote(break_device)
            with pytest.raises(LearnerLostError, match="unspecified launch failure") as lost:
                await second.optimizer_step(1.0)
            assert lost.value.fault is not None
            assert (lost.value.fault.kind, lost.value.fault.role) == ("device", "learner")
        finally:
            first.stop()
            second.stop()

    asyncio.run(run())

"""No failure hangs or ends a run that recovery could save: devices that fail, and calls that never return."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import ray
import torch
from ray.exceptions import RayActorError
from torch.distributed import DistStoreError

from actors.policy.plan import SamplingPlan
from actors.worker_setup import node_selector
from actors.workers.faults import DeviceFault, DeviceFaultError, FaultKind, RanksNeverMetError, fault_kind
from actors.workers.learner_group import LearnerGroup, LearnerLostError
from actors.workers.sampling_calls import WeightsHandle
from conf import UserError, load
from pipelines.common.cluster_state import ClusterState, NodeResources
from pipelines.policy.call_limit import CallAbandonedError, CallLimits
from pipelines.policy.checkpoint import Checkpoints, Manifest
from pipelines.policy.checkpoint_writer import AsyncCheckpointWriter
from pipelines.policy.cluster import RayCluster
from pipelines.policy.fault_log import FIXES, FaultLog
from pipelines.policy.rollout_pool import RolloutPool
from pipelines.policy.supervised_learner import SupervisedLearner
from pipelines.policy.supervised_rewards import SupervisedRewards
from pipelines.policy.supervision import Supervision
from tests.support.rewards import ConstantPool
from tests.support.sick_worker import SickWorker

UNUSED: Any = None


def fault(kind: FaultKind, role: str = "rollout", node: str = "a") -> DeviceFault:
    return DeviceFault(kind, role, node, "10.0.0.7", "RuntimeError: what happened")


def wrapped(cause: Exception) -> Exception:
    error = ValueError("a pass failed")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), "out_of_memory"),
        (RuntimeError("CUDA error: out of memory"), "out_of_memory"),
        (torch.AcceleratorError("CUDA error: unspecified launch failure"), "device"),
        (RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"), "device"),
        (wrapped(RuntimeError("CUDA error: an illegal instruction was encountered")), "device"),
        (RuntimeError("NCCL communicator was aborted on rank 1"), "communication"),
        (DistStoreError("timed out"), "communication"),
        (RanksNeverMetError("rank 1 of 2 did not meet the others"), "communication"),
        (RuntimeError("the size of tensor a must match"), None),
        (ValueError("CUDA error: only its text"), None),
        (ray.exceptions.RayTaskError("f", "CUDA error", RuntimeError("CUDA error: of another process")), None),
    ],
)
def test_faults_of_devices_are_told_from_other_errors(error: Exception, kind: FaultKind | None) -> None:
    assert fault_kind(error) == kind


async def draw(pool: RolloutPool, count: int) -> list[Any]:
    weights = WeightsHandle(0, False, UNUSED)
    calls = (pool.generate_images(["a"], [seed], weights, SamplingPlan(1)) for seed in range(count))
    return [await reference for reference in await asyncio.gather(*calls)]


@pytest.mark.ray
def test_a_worker_whose_device_failed_ends_itself_and_is_replaced(ray_cluster: None, tmp_path: Path) -> None:
    """The pool does not kill it here. Its call is made again, and the cause is known to the driver.

    It survives a call that is too large, as replicas do: other clients use it.
    """
    sickness = tmp_path / "sick"
    sickness.touch()

    async def run() -> tuple[Supervision, RolloutPool]:
        supervision = Supervision()
        start = ray.remote(SickWorker).options(num_cpus=0.1).remote
        pool = RolloutPool(lambda: start(sickness), 1, 1, kill=lambda actor: None, supervision=supervision)
        await pool.ready()
        (sick,) = pool.actors
        with pytest.raises(DeviceFaultError) as full:
            await sick.score.remote(10)
        assert (full.value.fault.kind, full.value.fault.role) == ("out_of_memory", "rollout")
        assert full.value.fault.node == ray.get_runtime_context().get_node_id()
        assert await sick.score.remote(1) == 1, "a process that ends refuses calls at once"
        assert await draw(pool, 3) == [[0], [1], [2]]
        with pytest.raises((RayActorError, DeviceFaultError)):
            await sick.ready.remote()
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            try:
                await sick.ready.remote()
            except DeviceFaultError:
                await asyncio.sleep(0.1)
            except RayActorError:
                break
        else:
            pytest.fail("the process still runs")
        for actor in pool.actors:
            ray.kill(actor)
        return supervision, pool

    supervision, pool = asyncio.run(run())
    assert supervision.faults.device_faults == 1 and pool.replaced == 1 and pool.reissued >= 1
    assert supervision.faults.out_of_memory == 0


class Handle:
    """An actor handle without Ray: each method is one function that returns an awaitable."""

    def __init__(self, answer: Callable[[], Any]) -> None:
        self._answer = answer

    def __getattr__(self, name: str) -> Handle:
        return Handle(lambda: value(True)) if name == "ready" else self

    def options(self, **_: object) -> Handle:
        return self

    def remote(self, *_: object) -> Any:
        return self._answer()


async def hang() -> Any:
    await asyncio.get_running_loop().create_future()


async def fail(kind: FaultKind, role: str = "rollout", after: float = 0.0) -> Any:
    await asyncio.sleep(after)
    raise DeviceFaultError(fault(kind, role))


async def value(result: Any) -> Any:
    return result


def call_of(report: Any) -> Callable[[], Any]:
    """A sampling call: the reference of its report, then that of its images."""

    def call() -> list[Any]:
        images = asyncio.get_running_loop().create_future()
        images.set_result("images")
        return [report(), images]

    return call


def test_a_call_that_never_returns_is_made_again_elsewhere() -> None:
    async def run() -> None:
        killed: list[Any] = []
        handles = iter([Handle(call_of(hang)), Handle(call_of(lambda: value(None)))])
        supervision = Supervision(call_margin_s=0.02)
        pool = RolloutPool(lambda: next(handles), 1, 1, killed.append, supervision)
        (stuck,) = pool.actors
        assert await asyncio.wait_for(draw(pool, 1), 20) == ["images"]
        assert stuck in killed and pool.replaced == pool.reissued == 1
        assert supervision.limits.abandoned == {"evaluate": 1}

    asyncio.run(run())


def test_a_role_that_is_out_of_memory_again_and_again_ends_the_run_with_the_fix() -> None:
    async def run() -> None:
        pool = RolloutPool(lambda: Handle(call_of(lambda: fail("out_of_memory"))), 1, 1, lambda actor: None)
        await draw(pool, 2)

    with pytest.raises(UserError, match=r"out of memory 3 times in a row: rollout on node .*sampling\.batch"):
        asyncio.run(asyncio.wait_for(run(), 20))


def test_progress_forgives_and_two_failed_devices_condemn_a_node() -> None:
    avoided: list[frozenset[str]] = []
    faults = FaultLog(avoided.append)
    for _ in range(3):
        faults.record(fault("out_of_memory"))
        faults.record(fault("out_of_memory"))
        faults.progress("rollout")
    faults.record(fault("communication", node="b"))
    faults.record(fault("communication", node="b"))
    reported_twice = fault("device", node="c")
    faults.record(reported_twice)
    faults.record(reported_twice)
    assert avoided == []
    faults.record(fault("device", node="c"))
    assert avoided == [frozenset({"c"})] == [faults.avoided_nodes()]
    assert (faults.out_of_memory, faults.device_faults) == (6, 4)


def test_the_settings_of_every_fix_exist() -> None:
    for name in re.findall(r"[a-z]+(?:\.[a-z_]+)+", " ".join(FIXES.values())):
        value: object = load("scenes")
        for part in name.split("."):
            value = vars(value)[part]


def test_a_node_is_avoided_only_if_the_others_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = RayCluster(load("scenes", ["policy.rollout.cpus=2", "policy.learner.cpus=5"]))
    nodes = [NodeResources(4, 0, 4, 0, id="good"), NodeResources(8, 0, 8, 0, id="bad")]
    monkeypatch.setattr(cluster, "state", lambda: ClusterState(tuple(nodes), frozenset()))
    placed: dict[str, object] = {}
    for role in ("rollout", "learner"):

        def start(*given: object, role: str = role) -> None:
            placed[role] = next(each for each in given if isinstance(each, frozenset))

        monkeypatch.setattr(f"pipelines.policy.cluster.start_{role}", start)
    cluster.avoid(frozenset({"bad"}))
    cluster.start_rollout(0)
    cluster.start_learner()
    assert placed == {"rollout": frozenset({"bad"}), "learner": frozenset()}
    assert node_selector("gpu", {"b", "a"}) == {"ray.io/node-group": "gpu", "ray.io/node-id": "!in(a,b)"}
    assert node_selector("") == {}


def test_the_limit_follows_the_median_and_passes_other_timeouts_on() -> None:
    async def run() -> None:
        limits = CallLimits(margin_s=0.1)
        assert limits.seconds("score") == pytest.approx(0.6)
        for _ in range(3):
            async with limits.limit("score"):
                await asyncio.sleep(0.01)
        assert 0.2 <= limits.seconds("score") < 0.6 and limits.seconds("sample") == pytest.approx(0.6)
        with pytest.raises(TimeoutError, match="its own"):
            async with limits.limit("score"):
                raise TimeoutError("its own")
        assert limits.abandoned.total() == 0
        with pytest.raises(CallAbandonedError):
            async with limits.limit("score"):
                await hang()
        assert limits.abandoned == {"score": 1}

    asyncio.run(run())


def ranks_of(*answers: Callable[[], Any]) -> SupervisedLearner:
    return SupervisedLearner(LearnerGroup([Handle(answer) for answer in answers], lambda: None), Supervision(0.05))


def test_the_rank_whose_device_failed_explains_the_loss_of_the_others() -> None:
    """Rank 0 loses rank 1 in a collective first."""
    learner = ranks_of(lambda: fail("communication", "learner"), lambda: fail("device", "learner", after=0.05))
    with pytest.raises(LearnerLostError, match=r"learner on node 10\.0\.0\.7") as lost:
        asyncio.run(learner.optimizer_step(1.0))
    assert lost.value.fault is not None and lost.value.fault.kind == "device"


def test_ranks_that_never_return_are_lost() -> None:
    with pytest.raises(LearnerLostError, match="did not return within"):
        asyncio.run(asyncio.wait_for(ranks_of(hang).optimizer_step(1.0), 20))


class TroubledRewards(ConstantPool):
    """Its first calls fail or hang."""

    def __init__(self, *troubles: Callable[[], Any]) -> None:
        super().__init__()
        self._troubles = list(troubles)

    async def score(self, images: Any, prompts: tuple[str, ...]) -> Any:
        if self._troubles:
            await self._troubles.pop(0)()
        return await super().score(images, prompts)


def test_scoring_calls_are_repeated_after_faults_and_hangs() -> None:
    supervision = Supervision(call_margin_s=0.02)
    rewards = SupervisedRewards(TroubledRewards(lambda: fail("device", "reward"), hang), supervision)
    assert asyncio.run(asyncio.wait_for(rewards.score(UNUSED, ("a", "b")), 20)).mu.tolist() == [1.0, 1.0]
    assert rewards.retries == 2 and supervision.limits.abandoned == {"score": 1}
    full = SupervisedRewards(TroubledRewards(*[lambda: fail("out_of_memory", "reward")] * 3), supervision)
    with pytest.raises(UserError, match=r"serving\.batch_images"):
        asyncio.run(full.score(UNUSED, ("a",)))


def test_a_checkpoint_that_cannot_be_written_in_time_is_missed_and_the_next_one_is_tried() -> None:
    written, messages = list[int](), list[str]()

    async def write(checkpoints: Checkpoints, manifest: Manifest, states: object, pinned: object) -> None:
        if manifest.version == 1:
            await hang()
        written.append(manifest.version)

    async def run() -> Supervision:
        supervision = Supervision(call_margin_s=0.02)
        writer = AsyncCheckpointWriter(Checkpoints("unused", 1), messages.append, write, supervision)
        for version in (1, 2):
            await writer.start(Manifest(version, 0.0, {}), {})
        await writer.finish()
        return supervision

    supervision = asyncio.run(asyncio.wait_for(run(), 20))
    assert written == [2] and supervision.checkpoints_missed == 1 and supervision.limits.abandoned == {"checkpoint": 1}
    assert messages[0].startswith("checkpoint of version 1 was not written, older ones are kept: a call of kind")

"""Seeds, prompts, checkpoints and logs, without Ray's help."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import ray
from PIL import Image

from actors.files import exists, list_folder, read_file, write_file
from actors.grpo.advantages import Advantages
from actors.grpo.learner import OptimizerStepMetrics
from actors.worker_setup import actor_options
from conf import UserError, load
from conf.policy import PolicySettings
from pipelines.common.prompts import draw_held_out_prompts, draw_training_prompts, read_prompts
from pipelines.common.seeds import group_seeds, sample_seed
from pipelines.policy import resource_wait as patience
from pipelines.policy import timing as clock
from pipelines.policy.checkpoint import AsyncCheckpointWriter, Checkpoints, Manifest, check_resumable, training_settings
from pipelines.policy.collector import ScoredGroup, advantages_of
from pipelines.policy.learner_client import LearnerClient
from pipelines.policy.metrics import EvaluationRow, RunLog, read_rows
from pipelines.policy.resources import NodeResources, ResourceRequest, unschedulable
from pipelines.policy.timing import IterationTimer, TimeWeightedGauge


def test_seeds_are_functions_of_their_purpose() -> None:
    seeds = {sample_seed(run, step, prompt, i) for run in (0, 1) for step in range(5) for prompt in range(5)
             for i in range(5)}  # fmt: skip
    assert len(seeds) == 250 and all(0 <= seed < 2**63 for seed in seeds)
    assert group_seeds(3, 1, 2, 4) == tuple(sample_seed(3, 1, 2, i) for i in range(4))


def test_prompts_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"text": "a cat"}\n\n{"text": "a dog", "relations": [["dog", "left of", "cat"]]}\n')
    first, second = read_prompts(path)
    assert (first.id, first.text, second.relations[0].relation) == ("1", "a cat", "left of")
    settings = load("scenes", [f"policy.prompts={path}", "flux.model=x", "policy.iterations=2"])
    drawn = draw_training_prompts(settings.policy, settings.flux)
    assert len(drawn) == 24 and sum(prompt.text == "a cat" for prompt in drawn) == 12
    assert len(draw_held_out_prompts(settings.policy, settings.flux, 0)) == 0
    path.write_text('{"text": "a cat"}\n{"prompt": "a dog"}\n')
    with pytest.raises(UserError, match=r"prompts\.jsonl:2 must be a JSON object"):
        read_prompts(path)
    with pytest.raises(ValueError, match=r"policy\.prompts must name a file"):
        draw_training_prompts(load("scenes").policy, settings.flux)


def test_a_file_of_prompts_is_shuffled_anew_each_time_around(tmp_path: Path) -> None:
    """Three times through sixteen prompts and half of a fourth: each time all of them, in an order of its own."""
    path, texts = tmp_path / "prompts.jsonl", [f"a cat and {number} dogs" for number in range(16)]
    path.write_text("\n".join(json.dumps({"text": text}) for text in texts))

    def drawn(seed: int) -> list[str]:
        settings = load("scenes", [
            f"policy.prompts={path}", "policy.iterations=7", "policy.prompts_per_iteration=8",
            "policy.optimizer.steps_per_iteration=1", f"policy.seed={seed}",
        ])  # fmt: skip
        return [prompt.text for prompt in draw_training_prompts(settings.policy, settings.flux)]

    order = drawn(seed=0)
    rounds = [order[first : first + 16] for first in (0, 16, 32)]
    assert len(order) == 56 and len(set(order[48:])) == 8
    assert all(sorted(one) == sorted(texts) for one in rounds)
    assert len({tuple(one) for one in [*rounds, texts]}) == 4, "no two orders are the same, and none is the file's"
    assert drawn(seed=0) == order != drawn(seed=1)


def test_embedded_prompts_are_not_those_of_evaluation() -> None:
    settings = load("scenes")
    training = {prompt.text for prompt in draw_training_prompts(settings.policy, settings.flux)}
    held_out = draw_held_out_prompts(settings.policy, settings.flux, settings.evaluation.seed)
    assert len(held_out.short) == len(held_out.long) == settings.policy.evaluation.prompts // 2
    assert not training & {prompt.text for prompt in held_out.short + held_out.long}


@pytest.mark.ray
def test_a_checkpoint_is_complete_or_not_there(ray_cluster: None, tmp_path: Path) -> None:
    """Also through a URI. A rank's file without a manifest is what a killed run leaves; it is never resumed."""
    checkpoints = Checkpoints(f"file://{tmp_path}/checkpoints", keep=2)
    assert checkpoints.newest() is None
    settings = load("scenes")
    for version in (5, 10, 15):
        asyncio.run(
            checkpoints.write(Manifest(version, 1.5, training_settings(settings)), {"rank-0.pt": ray.put(b"state")})
        )
    assert list_folder(checkpoints.location) == ["000010", "000015"]
    write_file(f"{checkpoints.folder(20)}/rank-0.pt", b"half")
    newest = checkpoints.newest()
    assert newest is not None and newest.version == 15
    assert read_file(f"{checkpoints.folder(15)}/rank-0.pt") == b"state"
    assert not any(name.endswith(".partial") for name in list_folder(checkpoints.folder(15)))
    check_resumable(
        newest,
        replace(
            settings,
            policy=replace(settings.policy, minutes=3.0, rollout=replace(settings.policy.rollout, max_actors=9)),
        ),
    )
    with pytest.raises(ValueError, match="group_size was 24 and is 12"):
        check_resumable(newest, replace(settings, policy=replace(settings.policy, group_size=12)))
    with pytest.raises(ValueError, match=r"detector\.margin was 0\.1 and is 0\.2"):
        check_resumable(newest, replace(settings, detector=replace(settings.detector, margin=0.2)))
    older = replace(newest, settings={key: value for key, value in newest.settings.items() if key != "flux.lora_rank"})
    check_resumable(older, settings)  # from before that setting was there
    with pytest.raises(ValueError, match=r"flux\.lora_rank was 16 and is 8"):
        check_resumable(older, replace(settings, flux=replace(settings.flux, lora_rank=8)))
    write_file(f"{checkpoints.folder(15)}/rank-0.pt", b"stale")
    newest = checkpoints.newest()
    assert newest is not None and newest.version == 10  # the damaged one is passed over
    checkpoints.clear()
    assert not exists(f"{checkpoints.folder(15)}/manifest.json")


@pytest.mark.ray
def test_a_checkpoint_that_cannot_be_written_leaves_the_older_ones(ray_cluster: None, tmp_path: Path) -> None:
    """A file stands where the folder should be, as a disk that refuses. The third miss in a row is an error."""
    (tmp_path / "000002").write_text("in the way")
    (tmp_path / "000003").write_text("in the way")
    (tmp_path / "000004").write_text("in the way")
    checkpoints, said = Checkpoints(str(tmp_path), keep=1), []
    writes = AsyncCheckpointWriter(checkpoints, said.append)

    async def run() -> None:
        for version in (1, 2, 3, 4):
            await writes.start(Manifest(version, 0.0, {}), {"rank-0.pt": ray.put(b"state")})
        await writes.finish()

    with pytest.raises(OSError):
        asyncio.run(run())
    assert [line.split(",")[0] for line in said] == [f"no checkpoint of version {version}" for version in (2, 3, 4)]
    newest = checkpoints.newest()
    assert newest is not None and newest.version == 1


def test_a_manifest_reads_back(tmp_path: Path) -> None:
    manifest = Manifest(3, 2.0, training_settings(load("flux_dev")))
    assert Manifest(**json.loads(json.dumps(manifest.__dict__))) == manifest


class Ranks:
    """Two learner ranks that remember the higher advantage of each group of two images, and the divisor."""

    def __init__(self) -> None:
        self.given: dict[int, float] = {}
        self.first = asyncio.Event()
        self.divisor = 0.0

    async def accumulate(self, rank: int, version: int, advantages: Advantages, *rest: object) -> None:
        self.given[rank] = max(advantages.values, default=0.0)
        self.first.set()

    async def step(self, divisor: float) -> OptimizerStepMetrics:
        self.divisor = divisor
        return OptimizerStepMetrics(0, 0, 0, 1, 0, 0, 1, 0, 2, 2, applied=True)


async def update_of(settings: PolicySettings, wait: bool) -> Ranks:
    """An update of two groups of spread 1 and 10; the second is scored later, or only once the first is learned."""
    unused: Any = None
    ranks: Any = Ranks()
    settings = replace(
        settings,
        algorithm=replace(settings.algorithm, top_k=0),
        learner=replace(settings.learner, ranks=2, engine="deepspeed"),
    )
    learning = LearnerClient(settings, ranks, unused, unused, print)

    async def group(rank: int) -> ScoredGroup:
        if rank:
            await (ranks.first.wait() if wait else asyncio.sleep(0.1))
        scores = np.array([-1, 1], np.float32) * (10 if rank else 1)
        nothing: Any = None
        advantages = advantages_of(scores, settings)
        return ScoredGroup(nothing, scores, advantages, nothing, (), nothing, 0.0, 0.0)

    groups = [asyncio.ensure_future(group(rank)) for rank in (0, 1)]
    await learning.step(await asyncio.wait_for(learning.learn(groups, 0, unused), 10))
    return ranks


def test_the_std_of_an_update_divides_its_gradient_and_learning_begins_at_once() -> None:
    """The std of all four scores is sqrt(50.5)."""
    ranks = asyncio.run(update_of(load("scenes").policy, wait=True))
    assert (ranks.given[0], ranks.given[1]) == (1.0, 10.0)
    assert ranks.divisor == pytest.approx(50.5**0.5 + 1e-4)


@pytest.mark.parametrize("overrides", ["policy.algorithm.kl_weight=0.01", "policy.advantage_clip=5"])
def test_beside_a_kl_term_and_under_a_clip_it_divides_each_advantage(overrides: str) -> None:
    ranks = asyncio.run(update_of(load("scenes", [overrides]).policy, wait=False))
    assert (ranks.given[0], ranks.given[1]) == pytest.approx((1 / (50.5**0.5 + 1e-4), 10 / (50.5**0.5 + 1e-4)))
    assert ranks.divisor == 1.0


def test_a_groups_own_std_divides_its_advantages() -> None:
    ranks = asyncio.run(update_of(load("scenes", ["policy.algorithm.advantage_std_over=group"]).policy, wait=True))
    assert (ranks.given[0], ranks.given[1]) == pytest.approx((1.0, 1.0), rel=1e-3)
    assert ranks.divisor == 1.0


def test_a_role_bound_to_a_node_group_is_placed_first() -> None:
    """A larger role that may go anywhere must not take its place."""
    bound = ResourceRequest("learner ranks", 1, 0.1, 0.0, "head", "policy.learner.cpus")
    large = ResourceRequest("rollout actors", 1, 0.95, 0.0, "", "policy.rollout.cpus")
    rooms = [NodeResources(1.0, 0.0, "head"), NodeResources(1.0, 0.0)]
    assert unschedulable((bound, large), rooms) == ""
    assert "1 of the rollout actors have no place" in unschedulable((bound, large), rooms[:1])


class SlowLearner:
    """Has its place at once, or never; and loads for a while."""

    def __init__(self, placed: bool) -> None:
        self._placed, self.loading = placed, False

    async def placed(self) -> None:
        await asyncio.sleep(0 if self._placed else 0.5)

    async def start(self) -> None:
        self.loading = True
        await asyncio.sleep(0.5)


class Lenders:
    """Rollout actors that note what is asked of them, and are ready once the learner loads."""

    def __init__(self, learner: SlowLearner) -> None:
        self.learner, self.asked = learner, []

    def scale_down(self) -> None:
        self.asked.append("give way")

    def grow(self) -> None:
        self.asked.append("grow")

    async def ready(self) -> None:
        assert self.learner.loading, "both are to load at the same time"


@pytest.mark.ray
@pytest.mark.parametrize("placed", [True, False])
def test_rollouts_give_way_to_a_learner_without_a_place_not_to_one_that_loads(
    ray_cluster: None, placed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "REMIND_AFTER", 0.05)
    learner: Any = SlowLearner(placed)
    groups, unused = SimpleNamespace(rollouts=Lenders(learner)), None
    learning = LearnerClient(load("scenes").policy, learner, cast(Any, unused), cast(Any, groups), lambda line: None)
    assert asyncio.run(learning.restore(Checkpoints(str(tmp_path), keep=1))) is None
    assert groups.rollouts.asked[-1] == "grow"
    assert ("give way" in groups.rollouts.asked) is not placed


def test_a_level_knows_how_long_it_stood_where(monkeypatch: pytest.MonkeyPatch) -> None:
    """2 s at 0, 3 s at 1, 1 s at 4. Of three servers three idle, then two, then none."""
    now = [10.0]
    monkeypatch.setattr(clock.time, "perf_counter", lambda: now[0])
    level = TimeWeightedGauge()
    for seconds, change in ((2, +1), (3, +3), (1, 0)):
        now[0] += seconds
        level.add(change)
    reading = level.read()
    assert (reading.seconds, reading.integral, reading.mean) == (6, 7, 7 / 6)
    assert (reading.idle_seconds(3), reading.idle_seconds(1), reading.idle_seconds(0)) == (3 * 2 + 2 * 3, 2, 0)
    assert level.read().at == {4: 0.0}
    ranks = IterationTimer(ranks=2)
    now[0] += 4
    ranks.ranks_waited([now[0] - 3, now[0]])
    assert ranks.wait_for_ranks_seconds == 1.5


def test_a_row_that_was_cut_off_does_not_stop_a_run_from_going_on(tmp_path: Path) -> None:
    rows = [json.dumps({"iteration": version}) for version in (1, 2, 3)]
    (tmp_path / "metrics.jsonl").write_text("\n".join([*rows, rows[0][:7]]))
    log = RunLog(tmp_path)
    log.truncate_after(2)
    log.close()
    assert [row["iteration"] for row in read_rows(tmp_path / "metrics.jsonl")] == [1, 2]


def test_a_full_disk_does_not_end_a_run_whose_numbers_it_holds(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A folder stands where the file should be, as a disk that refuses; then there is room again."""
    log = RunLog(tmp_path)
    log.evaluations.mkdir()
    row = EvaluationRow(7, *[1.0] * 12)
    log.evaluation(row, Image.new("RGB", (4, 4)))
    assert "what version 7 measured is not recorded" in caplog.text
    log.evaluations.rmdir()
    log.evaluation(row, Image.new("RGB", (4, 4)))
    log.close()
    assert log.has_evaluation(7)


def test_a_runtime_environment_is_added_to_what_every_actor_needs() -> None:
    own = {"pip": ["transformers==4.51"], "env_vars": {"HF_HOME": "/models", "MKL_NUM_THREADS": "2"}}
    made = actor_options(4, 1.0, 0.5, runtime_env=own)["runtime_env"]
    assert made["pip"] == own["pip"]
    assert (made["env_vars"]["HF_HOME"], made["env_vars"]["OMP_NUM_THREADS"]) == ("/models", "4")
    assert made["env_vars"]["MKL_NUM_THREADS"] == "2", "what the user says goes"
    given = load("scenes", ["serving.runtime_env.env_vars.HF_HOME=/models", "detector.runtime_env={pip: [a, b]}"])
    assert given.serving.runtime_env == {"env_vars": {"HF_HOME": "/models"}}
    assert given.detector.runtime_env == {"pip": ["a", "b"]} and given.judge.runtime_env == {}

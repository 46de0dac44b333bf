"""Whole runs on a random tiny FLUX: what is learned depends on nothing but the settings."""

from __future__ import annotations

import asyncio
import gzip
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import ray
import torch
from safetensors.numpy import load_file

from actors.grpo.lr_schedule import learning_rate
from actors.types import Scores
from actors.workers.rollout import Rollout
from conf import Settings, UserError, dump
from pipelines.policy import train as train_module
from pipelines.policy import training_run
from pipelines.policy.collector import Group, GroupCollector, ImagesLostError, ScoredGroup
from pipelines.policy.export import export_newest
from pipelines.policy.lineage import read_lineage
from pipelines.policy.train import PolicyResult, train_policy
from pipelines.policy.training_run import TrainingRun
from tests.support.alone import run_alone
from tests.support.rewards import ConstantPool, RednessPool

pytestmark = pytest.mark.ray

SettingsOf = Callable[..., Settings]


def adapter(result: PolicyResult) -> dict[str, np.ndarray]:
    return load_file(result.export / "pytorch_lora_weights.safetensors")


def assert_same_adapter(one: PolicyResult, other: PolicyResult) -> None:
    mine, theirs = adapter(one), adapter(other)
    assert mine.keys() == theirs.keys()
    assert all(np.array_equal(mine[key], theirs[key]) for key in mine)


def rows(result: PolicyResult) -> list[dict[str, float]]:
    return [json.loads(line) for line in result.metrics.read_text().splitlines()]


@pytest.fixture(scope="module")
def undisturbed(
    ray_cluster: None, flux_directory: Path, prompt_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> PolicyResult:
    """Four iterations by one rollout actor, without trouble."""
    from tests.policy.conftest import settings_of

    make = settings_of.__wrapped__(flux_directory, prompt_file)
    pool = RednessPool()
    result = train_policy(make(tmp_path_factory.mktemp("undisturbed")), pool, lambda line: None)
    pool.stop()
    return result


def test_a_run_leaves_what_it_promises(undisturbed: PolicyResult) -> None:
    assert undisturbed.version == 4
    measured = rows(undisturbed)
    assert [row["iteration"] for row in measured] == [1, 2, 3, 4]
    assert all(row["optimizer_steps_applied"] == 2 and row["staleness_max"] == 0 for row in measured)
    assert all(row["ratio_drift"] < 2e-5 for row in measured)
    assert sorted(path.name for path in Path(undisturbed.checkpoints).glob("0*")) == ["000002", "000004"]
    assert any(value.any() for key, value in adapter(undisturbed).items() if "lora_B" in key)


def test_everybody_can_read_what_a_run_leaves(undisturbed: PolicyResult) -> None:
    """No file is private to its owner, no partial and no lease is left."""
    usual = Path(undisturbed.export) / "new"
    usual.touch()
    mode = usual.stat().st_mode
    usual.unlink()
    files = [path for path in undisturbed.metrics.parents[1].rglob("*") if path.is_file()]
    assert len(files) > 8 and {path.name: path.stat().st_mode for path in files if path.stat().st_mode != mode} == {}
    assert not [path for path in files if path.name.endswith((".partial", ".lease"))]


def test_a_resumed_run_is_the_undisturbed_run(
    undisturbed: PolicyResult, rewards: RednessPool, settings_of: SettingsOf, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Stopped after the third iteration, which no checkpoint holds. It goes on with a colocated worker and an actor."""

    class Stopped(TrainingRun):
        def finished(self) -> bool:
            if self.version == 3:
                raise KeyboardInterrupt
            return super().finished()

    with monkeypatch.context() as patch:
        patch.setattr(train_module, "TrainingRun", Stopped)
        with pytest.raises(KeyboardInterrupt):
            train_policy(settings_of(tmp_path), rewards, lambda line: None)
    assert not (tmp_path / "policy" / "export").exists()
    colocated = ["policy.placement=colocated", "policy.rollout.min_actors=0", "policy.profile_iterations=[3]"]
    result = train_policy(settings_of(tmp_path, *colocated), rewards, lambda line: None)
    assert_same_adapter(result, undisturbed)
    assert [row["iteration"] for row in rows(result)] == [1, 2, 3, 4]
    assert [row["learner_sampling_seconds"] > 0 for row in rows(result)] == [False, False, True, True]
    (profiled,) = (tmp_path / "profiles").iterdir()
    traces = {path.name: json.loads(gzip.decompress(path.read_bytes())) for path in profiled.iterdir()}
    assert profiled.name == "iteration-3" and {"policy_worker-0-accumulate-1.json.gz"} < traces.keys()
    names = {event["name"] for event in traces["timeline.json.gz"]}
    assert "iteration 3" in names and any("accumulate" in name for name in names)
    assert export_newest(settings_of(tmp_path)) == result.export
    assert_same_adapter(result, undisturbed)


def test_a_run_starts_from_a_lora_and_is_extended_and_retuned(
    undisturbed: PolicyResult, rewards: RednessPool, settings_of: SettingsOf, tmp_path: Path
) -> None:
    """One optimizer step an iteration, so that the KL term of the first one is that of version 0: to itself it is 0."""
    origin = undisturbed.export.parent.parent
    given = [
        f"policy.start_from={origin}",
        "policy.optimizer.steps_per_iteration=1",
        "policy.algorithm.advantage_std_over=group",
        "policy.algorithm.kl_weight=0.1",
        "policy.algorithm.kl_reference=start",
    ]
    first = train_policy(settings_of(tmp_path, *given, "policy.iterations=1"), rewards, lambda line: None)
    start = load_file(Path(first.checkpoints) / "start" / "lora.safetensors")
    lora = adapter(undisturbed)
    scaled = {f"transformer.{key}": value * 2 if ".lora_B." in key else value for key, value in start.items()}
    assert scaled.keys() == lora.keys() and all(np.allclose(scaled[key], lora[key]) for key in lora)
    assert any(value.any() for key, value in lora.items() if ".lora_B." in key)

    messages: list[str] = []
    changed = [*given, "policy.iterations=2", "policy.optimizer.lr=1e-3"]
    with pytest.raises(UserError, match=r"iterations was 1 and is 2; policy\.optimizer\.lr was 0\.003 and is 0\.001"):
        train_policy(settings_of(tmp_path, *changed, "policy.strict_resume=true"), rewards, messages.append)
    second = train_policy(settings_of(tmp_path, *changed), rewards, messages.append)
    assert [row["iteration"] for row in rows(second)] == [1, 2]
    assert 0 <= rows(second)[0]["kl"] < 1e-3 * rows(second)[1]["kl"]
    assert rows(second)[1]["lr"] == pytest.approx(learning_rate(settings_of(tmp_path, *changed).policy.optimizer, 1, 2))
    lineage = read_lineage(tmp_path / "policy" / "lineage.jsonl")
    names = ["policy.start_from", "policy.iterations", "policy.optimizer.lr"]
    assert [(row.version, row.change.name) for row in lineage] == list(zip((0, 1, 1), names, strict=True))
    card = (second.export / "README.md").read_text()
    assert "continues from version 1 with changes:" in messages and all(name in card for name in names)
    assert str(origin) not in card and "policy.optimizer.lr 0.003 → 0.001 (learning rate of iteration 2: " in card


def break_device(rollout: Rollout) -> None:
    """Runs in the process of a rollout actor: from now on, sampling fails as CUDA fails."""

    def fail(*_: object) -> None:
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

    setattr(rollout.sampler, "sample", fail)  # noqa: B010


def test_killed_actors_change_nothing(
    undisturbed: PolicyResult, rewards: RednessPool, settings_of: SettingsOf, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """An actor dies with a group in its hands, the device of another fails, later the learner dies: all is counted."""

    class Troubled(TrainingRun):
        def split_by_optimizer_step(
            self, groups: Sequence[asyncio.Task[ScoredGroup]]
        ) -> Iterator[Sequence[asyncio.Task[ScoredGroup]]]:
            for step, chunk in enumerate(super().split_by_optimizer_step(groups)):
                if self.version == 1 and step == 0 and not self.rollouts.replaced:
                    killed, sick = self.rollouts.actors
                    ray.kill(killed)
                    sick.__ray_call__.remote(break_device)
                if self.version == 3 and step == 1 and not self.learner.restarts:
                    ray.kill(self.learner.ranks.ranks[0])
                yield chunk

    monkeypatch.setattr(train_module, "TrainingRun", Troubled)
    result = train_policy(settings_of(tmp_path, "policy.rollout.max_actors=2"), rewards, lambda line: None)
    assert_same_adapter(result, undisturbed)
    last = rows(result)[-1]
    assert last["actors_replaced"] == 2 and last["learner_restarts"] == 1 and last["groups_reissued"] >= 1
    assert last["device_faults"] == 1 and last["out_of_memory"] == last["calls_abandoned"] == 0
    assert [row["iteration"] for row in rows(result)] == [1, 2, 3, 4]


def test_a_group_whose_images_are_lost_is_sampled_again(
    undisturbed: PolicyResult,
    rewards: RednessPool,
    settings_of: SettingsOf,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Forgetful(GroupCollector):
        async def _score(self, group: Group, images: ray.ObjectRef[np.ndarray]) -> Scores:
            if (group.iteration, group.index) in ((1, 0), (2, 1)) and self.reissued < group.iteration:
                raise ImagesLostError
            return await super()._score(group, images)

    monkeypatch.setattr(training_run, "GroupCollector", Forgetful)
    disturbed = train_policy(settings_of(tmp_path), rewards, lambda line: None)
    assert_same_adapter(disturbed, undisturbed)
    assert rows(disturbed)[-1]["groups_reissued"] == 2


def test_a_run_whose_checkpoints_are_all_damaged_does_not_begin_anew_unasked(
    undisturbed: PolicyResult, rewards: RednessPool, settings_of: SettingsOf, tmp_path: Path
) -> None:
    shutil.copytree(undisturbed.metrics.parents[1], tmp_path, dirs_exist_ok=True)
    for path in (tmp_path / "policy" / "checkpoints").glob("*/rank-0.pt"):
        path.write_bytes(b"damaged")
    measured = (tmp_path / "policy" / "metrics.jsonl").read_text()
    with pytest.raises(UserError, match=r"none of the 2 checkpoints in .* can be read.*policy\.resume=never"):
        train_policy(settings_of(tmp_path), rewards, lambda line: None)
    assert (tmp_path / "policy" / "metrics.jsonl").read_text() == measured


@pytest.mark.parametrize(("objective", "iterations"), [("grpo", 4), ("nft", 2)])
def test_staleness_one_overlaps_and_is_bounded(
    objective: str, iterations: int, rewards: RednessPool, settings_of: SettingsOf, tmp_path: Path
) -> None:
    result = train_policy(
        settings_of(tmp_path, "policy.max_staleness=1", f"policy.evaluation.every={iterations}",
                    "policy.evaluation.prompts=4", f"policy.iterations={iterations}",
                    f"policy.algorithm.objective={objective}",
                    f"policy.held_out_prompts={settings_of(tmp_path).policy.prompts}"),
        rewards, lambda line: None,
    )  # fmt: skip
    assert result.version == iterations
    assert max(row["staleness_max"] for row in rows(result)) == 1
    assert all(row["optimizer_steps_applied"] == 2 for row in rows(result))
    assert [row.iteration for row in result.evaluations] == [0, iterations]
    shown = sorted((tmp_path / "policy" / "images").iterdir())
    assert [path.name for path in shown] == ["000000.png", f"00000{iterations}.png"]
    assert shown[0].read_bytes() != shown[1].read_bytes()
    assert result.evaluations[0].training_seconds == 0.0 and np.isfinite(result.evaluations[1].reward_mean)


def test_groups_without_spread_are_replaced_then_the_run_stops(
    ray_cluster: None, settings_of: SettingsOf, tmp_path: Path
) -> None:
    """A reward that cannot tell pictures apart: every group is replaced twice, and no update changes anything."""
    pool = ConstantPool()
    with pytest.raises(RuntimeError, match=r"2 optimizer steps in a row changed nothing.*had 0 samples"):
        train_policy(settings_of(tmp_path, "policy.optimizer.max_empty_steps=2"), pool, lambda line: None)
    assert pool.calls == 2 * 3 and len(pool.prompts) > 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("zero_stage", "objective"),
    [(2, ()), (3, ()), (3, ("policy.algorithm.objective=nft", "policy.algorithm.kl_form=velocity"))],
    ids=["2-grpo", "3-grpo", "3-nft"],
)
def test_two_deepspeed_ranks_learn_what_one_learns(
    zero_stage: int,
    objective: tuple[str, ...],
    undisturbed: PolicyResult,
    rewards: RednessPool,
    settings_of: SettingsOf,
    tmp_path: Path,
) -> None:
    """One update an iteration, so that each rank has a group. Rounding differs, and Adam's sign can enlarge it."""
    with_kl = [
        "policy.optimizer.steps_per_iteration=1",
        "policy.algorithm.kl_weight=0.1",
        "policy.algorithm.advantage_std_over=group",
        *objective,
    ]
    one = train_policy(settings_of(tmp_path / "one", *with_kl), rewards, lambda line: None)
    two = train_policy(
        settings_of(tmp_path / "two", *with_kl, "policy.learner.ranks=2", "policy.learner.engine=deepspeed",
                    f"policy.learner.zero_stage={zero_stage}"),
        rewards, lambda line: None,
    )  # fmt: skip
    for alone, shared in zip(rows(one), rows(two), strict=True):
        assert shared["samples_trained"] == alone["samples_trained"]
        first = alone["iteration"] == 1  # nothing has been enlarged yet
        assert shared["grad_norm"] == pytest.approx(alone["grad_norm"], rel=1e-4 if first else 0.05)
        assert shared["kl"] == pytest.approx(alone["kl"], rel=0.1) and (first or alone["kl"] > 0)
        for measure in ("loss", "base_distance", *(() if objective else ("ratio_mean",))):  # nft has no ratio
            assert shared[measure] == pytest.approx(alone[measure], rel=0.05, abs=1e-7), (alone["iteration"], measure)
    mine, theirs = adapter(one), adapter(two)
    differences = np.concatenate([(mine[key] - theirs[key]).ravel() for key in mine])
    moved = np.concatenate([mine[key].ravel() for key in mine if "lora_B" in key])
    assert np.abs(differences).mean() < 0.02 * np.abs(moved).mean()


@pytest.mark.slow
def test_nodes_that_come_and_go_change_nothing(
    undisturbed: PolicyResult, settings_of: SettingsOf, tmp_path: Path
) -> None:
    """A rollout actor on each of two nodes; one is killed as a call goes out; a new node takes the pending actor."""
    settings = settings_of(
        tmp_path, "policy.rollout.max_actors=2", "policy.rollout.cpus=0.95", "policy.learner.node_group=head"
    )
    dump(settings, tmp_path / "given.yaml")
    run_alone("tests.policy.nodes_come_and_go", str(tmp_path / "given.yaml"))
    mine, theirs = adapter(undisturbed), load_file(tmp_path / "policy" / "export" / "pytorch_lora_weights.safetensors")
    assert all(np.array_equal(mine[key], theirs[key]) for key in mine)
    last = json.loads((tmp_path / "policy" / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["groups_reissued"] >= 1 and last["actors_replaced"] == 1 and last["learner_restarts"] == 0


def test_an_actor_that_cannot_start_says_why(rewards: RednessPool, settings_of: SettingsOf, tmp_path: Path) -> None:
    with pytest.raises((ray.exceptions.RayActorError, ValueError), match="matches no linear layer"):  # or the learner
        train_policy(settings_of(tmp_path, 'flux.lora_targets=["attn.to_z"]'), rewards, lambda line: None)


def test_two_actors_draw_what_one_draws(
    undisturbed: PolicyResult, ray_cluster: None, settings_of: SettingsOf, tmp_path: Path
) -> None:
    from actors.policy.plan import SamplingPlan
    from actors.workers.learner import LearnerJob
    from actors.workers.learner_group import start_learner
    from actors.workers.rollout import start_rollout

    settings = settings_of(tmp_path)
    plan = SamplingPlan.for_training(settings.policy)
    learner = start_learner(LearnerJob(settings.flux.model, settings.flux, settings.policy))
    actors = [start_rollout(settings.flux.model, settings.flux, settings.policy.rollout, number) for number in range(2)]

    async def weights():  # type: ignore[no-untyped-def]
        await learner.start()
        return await learner.publish()

    handle = asyncio.run(weights())
    drawn = [
        ray.get(
            actor.sample_group.options(num_returns=7).remote(
                "a red circle left of a blue square", range(4), handle, plan
            )
        )
        for actor in actors
    ]
    for one, other in zip(drawn[0][3:], drawn[1][3:], strict=True):
        assert torch.equal(one.latents, other.latents) and torch.equal(one.log_probs, other.log_probs)
    assert np.array_equal(drawn[0][1], drawn[1][1])
    learner.stop()
    for actor in actors:
        ray.kill(actor)

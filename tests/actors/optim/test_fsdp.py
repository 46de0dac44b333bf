"""A sharded base on two ranks learns the same as a whole base on one rank, with unequal work on the ranks."""

from __future__ import annotations

import faulthandler
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as multiprocessing
from torch.distributed.tensor import DTensor

from actors.grpo.learner import GrpoLearner
from actors.grpo.metrics import OptimizerStepMetrics
from actors.policy.flux import FluxPolicy
from actors.workers.learner import LearnerJob, LearnerRank
from actors.workers.learner_group import merge_metrics
from actors.workers.process_group import open_store
from conf.flux import FluxSettings
from conf.policy import AlgorithmSettings, LearnerSettings, PolicyOptimizerSettings, PolicySettings, SamplingSettings
from tests.support.learner import Group, groups_of, torch_engine
from tests.support.ranks import end_rank

SETTINGS = PolicySettings(
    iterations=4,
    prompts_per_iteration=2,
    group_size=4,
    algorithm=AlgorithmSettings(top_k=2, kl_weight=0.1, ratio_tolerance=0.1, advantage_std_over="group"),
    sampling=SamplingSettings(denoise_steps=4, window=2),
    learner=LearnerSettings(replay_batch=3, threads=1),
    optimizer=PolicyOptimizerSettings(steps_per_iteration=1, warmup_iterations=1),
)
SHARDED = replace(SETTINGS, learner=replace(SETTINGS.learner, engine="deepspeed", zero_stage=3, ranks=2))

HANGS_AFTER = 300
"""Seconds after which a rank is considered stuck and exits."""


def steps_of(groups: list[Group]) -> list[list[Group]]:
    """Three optimizer steps of two groups: unequal numbers of passes; the second group skipped; both skipped."""
    first, second = groups
    return [[first, cut(second, 1)], [first, cut(first, 0)], [cut(first, 0), cut(first, 0)]]


def cut(group: Group, samples: int) -> Group:
    """The group with only its first kept samples."""
    advantages = group.advantages
    fewer = replace(advantages, kept=advantages.kept[:samples], values=advantages.values[:samples])
    return Group(fewer, group.conditioning, group.trajectories[:samples])


def learn(learner: GrpoLearner, steps: list[list[Group]], share: slice) -> list[OptimizerStepMetrics]:
    """Makes the optimizer steps with this share of each one's groups."""
    measured: list[OptimizerStepMetrics] = []
    for groups in steps:
        for group in groups[share]:
            group.add_to(learner)
        measured.append(learner.optimizer_step())
    return measured


def frozen_elements(learner: GrpoLearner) -> int:
    """Elements of the frozen weights that this rank has in memory between passes."""
    frozen = (p for p in learner.policy.transformer.parameters() if not p.requires_grad)
    return sum((p.to_local() if isinstance(p, DTensor) else p).numel() for p in frozen)


def run_rank(number: int, port: int, model: str, flux: FluxSettings, folder: str) -> None:
    """A learner rank as in its actor, without Ray."""
    faulthandler.dump_traceback_later(HANGS_AFTER, exit=True)
    rank = LearnerRank(LearnerJob(model, flux, SHARDED), number)
    rank.start(f"127.0.0.1:{port}")
    held = [frozen_elements(rank.learner)]
    steps = torch.load(f"{folder}/steps.pt", weights_only=False)
    measured = learn(rank.learner, steps, slice(number, None, 2))
    held.append(frozen_elements(rank.learner))
    adapter_is_whole = all(type(p) is torch.nn.Parameter for p in rank.learner.policy.trainable().values())
    torch.save((measured, rank.learner.state_dict()["lora"], held, adapter_is_whole), f"{folder}/{number}.pt")
    end_rank()


@pytest.mark.slow
@pytest.mark.parametrize("flux", [FluxSettings(), FluxSettings(dtype="bfloat16", checkpoint_every=1)])
def test_a_sharded_base_learns_what_a_whole_one_learns(
    flux: FluxSettings, flux_directory: Path, tmp_path: Path
) -> None:
    """Also: each rank has half of the base, and no rank waits forever in a gather."""
    whole = FluxPolicy.from_pretrained(str(flux_directory), flux, transformer_only=True, seed=SETTINGS.seed)
    plain = GrpoLearner(whole, torch_engine(whole, SETTINGS), SETTINGS)
    steps = steps_of(groups_of(FluxPolicy.from_pretrained(str(flux_directory), flux), plain))
    torch.save(steps, tmp_path / "steps.pt")
    measured = learn(plain, steps, slice(None))
    store = open_store("127.0.0.1", ranks=2)  # where they meet; it lives as long as this process
    multiprocessing.spawn(run_rank, args=(store.port, str(flux_directory), flux, str(tmp_path)), nprocs=2)
    halves, parts = [], []
    for rank in (0, 1):
        theirs, lora, held, adapter_is_whole = torch.load(tmp_path / f"{rank}.pt", weights_only=False)
        parts.append(theirs)
        assert [step.applied for step in theirs] == [step.applied for step in measured] == [True, True, False]
        for one, other in zip(measured[:2], theirs, strict=False):
            assert other.grad_norm == pytest.approx(one.grad_norm, rel=1e-4)
        for key, value in plain.state_dict()["lora"].items():
            torch.testing.assert_close(lora[key], value, atol=1e-5, rtol=1e-3)
        assert adapter_is_whole and held[0] == held[1]
        halves.append(held[0])
    for one, *both in zip(measured[:2], *parts, strict=False):
        other = merge_metrics(both)
        for measure, least in (("loss", 1e-7), ("ratio_mean", 1e-7), ("kl", 1e-10)):
            assert getattr(other, measure) == pytest.approx(getattr(one, measure), rel=1e-2, abs=least), measure
    assert measured[1].kl > 1e-8  # from the second step on there is a distance to the base
    base = frozen_elements(plain)
    assert sum(halves) == base and max(halves) < 0.6 * base

"""Which divisions of the GPUs the planner considers beside the rewards of a run. No model is counted here."""

from __future__ import annotations

import pytest

from conf import UserError, load
from conf.settings import Settings
from pipelines.planning import plan as plan_module
from pipelines.planning.fleet import machines
from pipelines.planning.plan import make_plan
from pipelines.planning.search import divisions, with_overrides

FEW = ["policy.prompts_per_iteration=24"]


def sizes(settings: Settings, gpus: int) -> list[list[int]]:
    """Number of GPUs of each division, colocated and separate."""
    return [
        [len(machines(with_overrides(settings, split))) for split in divisions(settings, gpus, placement)]
        for placement in ("colocated", "separate")
    ]


@pytest.mark.parametrize(
    ("words", "taken"),
    [
        (["rewards.hpsv3.gpus=1", "rewards.hpsv3.max_replicas=2"], 2),
        (["rewards.hpsv3.gpus=0.25", "rewards.clip.gpus=0.1", "rewards.mine.kind=python", "rewards.mine.path=a:b",
          "rewards.mine.gpus=2"], 3),
        (["rewards.spatialscore=0", "rewards.detector=1", "detector.gpus=0.2"], 1),
        ([], 0),
    ],
)  # fmt: skip
def test_a_division_and_all_rewards_fit_the_gpus(words: list[str], taken: int) -> None:
    settings = load("flux_dev", [*FEW, *words])
    for found in sizes(settings, 8):
        assert found and max(found) == 8
    roles = ("policy.rollout.max_actors", "policy.learner.ranks", "serving.max_replicas")
    for split in divisions(settings, 8, "separate"):
        assert sum(split.get(role, 0) for role in roles) == 8 - taken


def test_a_small_reward_shares_the_gpu_of_a_worker_and_a_large_one_has_its_own() -> None:
    small = load("flux_dev_8gpu", ["rewards.clip.gpus=0.1"])
    (shared,) = (machine for machine in machines(small) if machine.rewards)
    assert shared.roles == ("learn", "sample", "clip") and len(machines(small)) == 8
    large = load("flux_dev_8gpu", ["rewards.hpsv3.gpus=2", "rewards.hpsv3.max_replicas=2", "rewards.clip.gpus=0"])
    assert [machine.roles for machine in machines(large)][8:] == [("hpsv3",)] * 4


def test_gpus_that_the_other_rewards_need_are_refused_before_a_model_is_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(plan_module, "reward_plans", lambda *_: pytest.fail("a model was counted"))
    settings = load("flux_dev_1gpu", ["plan.gpus=2", "rewards.hpsv3.gpus=1", "rewards.hpsv3.max_replicas=2"])
    with pytest.raises(UserError, match=r"no division of 2 x .*: rewards beside SpatialScore reserve up to 2, and"):
        make_plan(settings)
    with pytest.raises(UserError, match="scenes reserves none"):
        make_plan(load("scenes", ["rewards.clip.gpus=1"]))

"""The setting `rewards`: its short forms, and what a run records of it."""

from __future__ import annotations

from pathlib import Path

from conf.load import dump, load, load_recorded, resolve


def weights(overrides: list[str]) -> dict[str, float | None]:
    return {name: term and term.weight for name, term in load("scenes", overrides).rewards.items()}


def test_a_number_is_a_weight_and_0_leaves_a_reward_out() -> None:
    assert weights([]) == {"spatialscore": 1.0}
    assert weights(["rewards.spatialscore=0", "rewards.rules=2"]) == {"spatialscore": None, "rules": 2.0}
    assert weights(["rewards.spatialscore=null", "rewards.rules=2"]) == {"spatialscore": None, "rules": 2.0}
    assert weights(["rewards.judge.weight=0"]) == {"spatialscore": 1.0, "judge": 0.0}
    watched = load("scenes", ["rewards.judge.weight=0"])
    assert watched.uses_reward("judge") and not watched.trains_on("judge")
    assert load("scenes", ["rewards.judge=0.5", "rewards.judge.at_least=3"]).training_weight("judge") == 0.5


def test_recorded_rewards_are_loaded_again_and_may_be_changed(tmp_path: Path) -> None:
    """Also those of a run from before rewards had names, which are numbers."""
    file = tmp_path / "settings.yaml"
    given = ["rewards.spatialscore=0", "rewards.rules=1", "rewards.mine.kind=python", "rewards.mine.path=a:b"]
    settings = load("scenes", [*given, "rewards.mine.runtime_env.pip=[x]", "rewards.judge.at_least=3"])
    dump(settings, file)
    assert load_recorded(file).rewards == settings.rewards
    changed = resolve(recorded=file, overrides=["rewards.spatialscore.weight=1", "rewards.mine=0"]).settings
    assert list(changed.used_rewards()) == ["spatialscore", "rules", "judge"]
    old = "preset: scenes\nrewards:\n  spatialscore: 1.0\n  rules: 0.0\n  judge: 0.0\n  detector: 0.5\n"
    file.write_text(old)
    assert {name: term.weight for name, term in load_recorded(file).used_rewards().items()} == {
        "spatialscore": 1.0,
        "detector": 0.5,
    }

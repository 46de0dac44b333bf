"""Several rewards at once: the exact checker, a judge that answers over HTTP on this machine, and a detector."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import ray
from ray.exceptions import ObjectLostError, RayActorError, RayTaskError

from actors.rewards.detector import DetectorReward
from actors.rewards.errors import RewardError
from actors.types import Prompt, Relation, Scores
from actors.workers.faults import DeviceFault, DeviceFaultError
from actors.workers.serve_start import StartError
from conf import Settings, SettingsError, UserError, load
from conf.rewards import RewardTerm
from pipelines.common.prompts import draw_held_out_prompts, read_prompts
from pipelines.common.readable_relations import relations_from_boxes, relations_in_depth
from pipelines.policy import rewards as rewards_module
from pipelines.policy.call_limit import CallLimits
from pipelines.policy.checker_metrics import CheckerCounts
from pipelines.policy.measures import other_rewards, summarize_all
from pipelines.policy.reward_mix import RewardMix, RunningReward
from pipelines.policy.rewards import start_rewards
from pipelines.scenes.grammar import parse
from pipelines.scenes.render import lay_out, render
from tests.support.guide_code import write_programs
from tests.support.openai_server import Behaviour, ContentRefusal, serving
from tests.support.ports import free_port
from tests.support.tiny_owlv2 import save_tiny_owlv2

KEY = "sk-secret-of-the-test"


def grade(body: dict[str, Any], untrue: bool) -> str:
    """Grades 7, and refuses the question about a green object."""
    if "green" in body["messages"][0]["content"][1]["text"]:
        raise ContentRefusal
    return "7"


@pytest.mark.ray
def test_rewards_are_weighted_and_a_failed_grade_fails_its_image_only(
    ray_cluster: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPATIALT2I_TEST_KEY", KEY)
    texts = [
        "a red circle left of a blue square",
        "a red circle right of a blue square",
        "a green circle above a red square",
    ]
    rng = np.random.default_rng(0)
    images = [render(lay_out(parse(text), rng), rng) for text in (texts[0], texts[0], texts[2])]
    behaviour = Behaviour({"429": 1.0}, reply=grade)
    with serving(behaviour) as url:
        settings = load(
            "scenes",
            [
                "rewards.spatialscore=0",
                "rewards.rules=2",
                "rewards.judge=0.5",
                f"judge.url={url}",
                "judge.model=judge",
                "judge.key_variable=SPATIALT2I_TEST_KEY",
            ],
        )
        rewards = start_rewards(settings)
        try:
            scores = asyncio.run(rewards.score(ray.put(np.stack(images)), texts))
        finally:
            rewards.stop()
    assert scores.mu[:2].tolist() == pytest.approx([2 * 1.0 + 0.5 * 7, 2 * 2 / 3 + 0.5 * 7])
    assert np.isnan(scores.mu[2])
    assert sorted(behaviour.seen.values()) == [2, 2, 2], "every question is asked again after a 429"
    assert rewards.retries == 3
    assert behaviour.keys == {f"Bearer {KEY}"} and {body["model"] for body in behaviour.bodies} == {"judge"}
    (image, _) = behaviour.bodies[0]["messages"][0]["content"]
    assert image["image_url"]["url"].startswith("data:image/png;base64,")


UNUSED: Any = None


class FixedPool:
    """A reward that gives every call the same scores."""

    def __init__(self, mu: list[float], sigma: list[float]) -> None:
        self.scores = Scores(np.array(mu, np.float32), np.array(sigma, np.float32))

    async def score(self, images: object, prompts: Sequence[str]) -> Scores:
        return self.scores


def mix_of(terms: dict[str, RewardTerm], pools: Sequence[FixedPool], limits: CallLimits | None = None) -> RewardMix:
    pairs = zip(terms.items(), pools, strict=True)
    running = [RunningReward(name, term, cast(Any, pool), UNUSED) for (name, term), pool in pairs]
    return RewardMix(running, limits=limits)


def test_each_reward_counts_with_its_own_weight() -> None:
    """mu = sum of w mu, sigma^2 = sum of (w sigma)^2."""
    pools = FixedPool([1.0, 2.0, 3.0], [0.1, 0.3, 0.0]), FixedPool([10.0, -4.0, np.nan], [0.4, 1.6, 0.0])
    terms = {"one": RewardTerm(weight=2.0), "other": RewardTerm(weight=0.5)}
    mix = mix_of(terms, pools)
    scores = asyncio.run(mix.score(UNUSED, ["a", "b", "c"]))
    assert scores.mu[:2].tolist() == pytest.approx([2.0 + 5.0, 4.0 - 2.0])
    assert np.isnan(scores.mu[2]), "an image that one reward cannot score has no score"
    assert scores.sigma[:2].tolist() == pytest.approx([(0.2**2 + 0.2**2) ** 0.5, (0.6**2 + 0.8**2) ** 0.5])


def test_a_watched_reward_scores_held_out_images_only_and_a_gate_training_images_too() -> None:
    """On held-out images nothing is gated, because they are no group."""
    terms = {"trained": RewardTerm(weight=1.0), "gate": RewardTerm(at_least=0.5), "watched": RewardTerm()}
    pools = [FixedPool(mu, [0.0] * 3) for mu in ([3.0, 2.0, 1.0], [0.0, 0.5, 1.0], [np.nan, 8.0, 9.0])]
    mix = mix_of(terms, pools)
    group = asyncio.run(mix.score(UNUSED, ["a"] * 3))
    assert group.mu.tolist() == [1.0, 2.0, 1.0] and list(group.parts) == ["trained", "gate"]
    held_out = asyncio.run(mix.score_held_out(UNUSED, ["a", "b", "c"]))
    assert held_out.mu.tolist() == [3.0, 2.0, 1.0] and list(held_out.parts) == ["trained", "gate"]
    assert asyncio.run(mix.watch(UNUSED, ["a", "b", "c"]))["watched"].mu[1:].tolist() == [8.0, 9.0]


class FailingPool:
    """A reward whose calls end with an error, or never."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error

    async def score(self, images: object, prompts: Sequence[str]) -> Scores:
        if self.error is None:
            await asyncio.sleep(3600)
        raise cast(Exception, self.error)


@pytest.mark.parametrize(
    "error",
    [
        KeyError("no key"),
        RewardError("not one number per image"),
        DeviceFaultError(DeviceFault("device", "reward", "10.0.0.7", "", "lost")),
        RayActorError(),
        None,
    ],
)
def test_no_failure_of_a_watched_reward_ends_a_run(error: Exception | None, caplog: pytest.LogCaptureFixture) -> None:
    terms = {"trained": RewardTerm(weight=1.0), "watched": RewardTerm()}
    pools = cast(Any, [FixedPool([3.0, 2.0], [0.0] * 2), FailingPool(error)])
    mix = mix_of(terms, pools, CallLimits(margin_s=0.01))
    parts = asyncio.run(mix.parts(UNUSED, ["a", "b"]))
    assert parts["trained"].mu.tolist() == [3.0, 2.0] and np.isnan(parts["watched"].mu).all()
    asyncio.run(mix.watch(UNUSED, ["a", "b"]))
    assert caplog.text.count("the watched reward watched has no scores") == 1, "equal reasons are reported once"
    measures = summarize_all(
        [other_rewards(Scores(parts["trained"].mu, parts["trained"].sigma), parts)], CheckerCounts()
    )
    assert measures["watched"]["missing"] == 2 and measures["trained"]["missing"] == 0


def test_a_watched_reward_that_cannot_be_started_is_left_out_and_a_trained_one_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def prepare(settings: Settings, name: str, *_: object) -> Callable[[], Any]:
        def start() -> Any:
            if name == "clip":
                raise StartError("no weights")
            return FixedPool([1.0], [0.0])

        return start

    monkeypatch.setattr(rewards_module, "prepare_reward", prepare)
    words = [f"run_dir={tmp_path}", "rewards.spatialscore=0", "rewards.rules=1", "rewards.clip.weight=0"]
    mix = start_rewards(load("scenes", words))
    assert np.isnan(asyncio.run(mix.watch(UNUSED, ["a"]))["clip"].mu).all()
    assert asyncio.run(mix.score(UNUSED, ["a"])).mu.tolist() == [1.0]
    with pytest.raises(UserError, match=r"^rewards\.clip cannot be started: no weights$"):
        start_rewards(load("scenes", [*words[:2], "rewards.clip.weight=1"]))


def test_a_trained_reward_that_raises_ends_the_run_with_one_message() -> None:
    cause = KeyError("no key")
    trouble = RayTaskError("score", "a traceback", cause).as_instanceof_cause()
    mix = mix_of({"mine": RewardTerm(weight=1.0)}, cast(Any, [FailingPool(trouble)]))
    with pytest.raises(UserError, match=r"^rewards\.mine ended with KeyError: 'no key': correct it"):
        asyncio.run(mix.score(UNUSED, ["a"]))
    for loss in (ObjectLostError("0" * 56, None, ""), RayActorError()):  # no mistake of the user: exit code 1
        lost = mix_of({"mine": RewardTerm(at_least=1.0)}, cast(Any, [FailingPool(loss)]))
        with pytest.raises(type(loss)):
            asyncio.run(lost.score(UNUSED, ["a"]))


@pytest.mark.ray
def test_two_runs_on_one_cluster_keep_their_own_rewards(ray_cluster: None, tmp_path: Path) -> None:
    """Stopping the rewards of one run does not stop those of the other."""
    mix = ["rewards.spatialscore=0", "rewards.rules=1"]
    mine, theirs = (start_rewards(load("scenes", [f"run_dir={tmp_path / name}", *mix])) for name in ("mine", "theirs"))
    text, rng = "a red circle left of a blue square", np.random.default_rng(0)
    images = ray.put(render(lay_out(parse(text), rng), rng)[None])
    theirs.stop()
    try:
        assert asyncio.run(mine.score(images, [text])).mu.tolist() == [1.0]
        assert [each.running for each in asyncio.run(mine.replicas())] == [1]
    finally:
        mine.stop()


@pytest.mark.ray
def test_the_detector_knows_the_relations_of_all_prompts_of_the_run(ray_cluster: None, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text(
        json.dumps({"text": "a cup beneath a red square", "relations": [["cup", "beneath", "red square"]]}) + "\n"
    )
    detector = save_tiny_owlv2(tmp_path / "owlv2")
    settings = load(
        "scenes",
        [
            "rewards.spatialscore=0",
            "rewards.detector=2",
            f"detector.model={detector}",
            "detector.threshold=0",
            f"policy.prompts={prompts}",
            "policy.evaluation.prompts=2",
        ],
    )
    held_out = draw_held_out_prompts(settings.policy, settings.flux, settings.evaluation.seed)
    texts = ["a cup beneath a red square", *(prompt.text for prompt in (*held_out.short, *held_out.long))]
    images = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)
    rewards = start_rewards(settings)
    try:
        scores = asyncio.run(rewards.score(ray.put(images), texts))
    finally:
        rewards.stop()
    relations = relations_from_boxes([*read_prompts(prompts), *held_out.short, *held_out.long])
    alone = DetectorReward(settings.detector, relations).score(images, texts)
    assert scores.mu.tolist() == pytest.approx((2 * alone.mu).tolist()) and scores.mu.max() > 0


def test_relations_are_converted_to_those_that_boxes_show_or_refused() -> None:
    def prompt(*relations: Relation) -> Prompt:
        return Prompt("7", "what it says", relations)

    under = prompt(Relation("cup", "underneath", "table"), Relation("cup", "to the right of", "jug"))
    assert relations_from_boxes([under]) == {
        "what it says": (Relation("table", "above", "cup"), Relation("jug", "left of", "cup"))
    }
    with pytest.raises(UserError, match="from boxes, not 'behind' of 'what it says'"):
        relations_from_boxes([under, prompt(Relation("cup", "behind", "jug"))])
    with pytest.raises(UserError, match="from boxes, not 'juggled by'"):
        relations_from_boxes([prompt(Relation("cup", "juggled by", "jug"))])
    with pytest.raises(UserError, match="needs the relations of every prompt, and 'what it says' has none"):
        relations_from_boxes([prompt()])


def test_relations_in_depth_are_those_of_boxes_and_of_the_third_axis() -> None:
    relations = (
        Relation("cup", "behind", "jug"),
        Relation("cup", "right of", "jug"),
        Relation("jug", "larger than", "cup"),
    )
    assert relations_in_depth([Prompt("7", "what it says", relations)], "mine")["what it says"] == (
        Relation("jug", "in front of", "cup"), Relation("jug", "left of", "cup"), Relation("jug", "larger than", "cup"),
    )  # fmt: skip
    with pytest.raises(UserError, match=r"rewards\.mine reads .*smaller than from boxes and depth, not 'inside' of"):
        relations_in_depth([Prompt("7", "what it says", (Relation("cup", "inside", "box"),))], "mine")


def test_a_mix_without_a_usable_reward_is_refused() -> None:
    with pytest.raises(SettingsError, match="whose weight is not 0"):
        load("scenes", ["rewards.spatialscore=0"])
    with pytest.raises(UserError, match="images of the scenes world only"):
        start_rewards(load("flux_dev", ["rewards.rules=1"]))


def test_prompts_without_relations_are_refused_before_any_pool_starts(tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text(json.dumps({"text": "a cup on a table"}) + "\n")
    with pytest.raises(UserError, match="'a cup on a table' has none"):
        start_rewards(
            load(
                "flux_dev",
                ["rewards.spatialscore=0", "rewards.detector=1", f"policy.prompts={prompts}", f"run_dir={tmp_path}"],
            )
        )


@pytest.mark.ray
def test_your_own_function_and_service_are_rewards_with_replicas_of_their_own(
    ray_cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both are the examples of the guide. One that breaks its contract ends a run if it trains, and is NaN if not."""
    write_programs("rewards.md", tmp_path, "my_rewards.py", "service.py")
    (tmp_path / "wrong_reward.py").write_text(
        "def one_number(images, prompts):\n    return 1.0\ndef crash(images, prompts):\n    return [{}['no key']]\n"
    )
    port = str(free_port())
    (tmp_path / "service.py").write_text((tmp_path / "service.py").read_text().replace("8100", port))
    monkeypatch.chdir(tmp_path)
    images = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)
    with subprocess.Popen([sys.executable, "service.py"]) as service:
        mix = [
            "rewards.spatialscore=0",
            "rewards.warm.kind=python",
            "rewards.warm.path=my_rewards:warmth",
            "rewards.warm.weight=2",
            "rewards.warm.max_replicas=2",
            "rewards.bright.kind=http",
            f"rewards.bright.url=http://127.0.0.1:{port}",
            "rewards.bright.weight=1",
            *(f"rewards.{name}.kind=python" for name in ("wrong", "crash")),
            "rewards.wrong.path=wrong_reward:one_number",
            "rewards.crash.path=wrong_reward:crash",
        ]
        rewards = start_rewards(load("scenes", [f"run_dir={tmp_path}", *mix]))
        try:
            scores = asyncio.run(rewards.score_held_out(ray.put(images), ["a", "b"]))
            watched = asyncio.run(rewards.watch(ray.put(images), ["a", "b"]))
            replicas = [each.running for each in asyncio.run(rewards.replicas())]
        finally:
            rewards.stop()
            service.terminate()
    warm = (images[..., 0].mean((1, 2)) - images[..., 2].mean((1, 2))) / 255
    assert scores.mu.tolist() == pytest.approx((2 * warm + images.mean((1, 2, 3)) / 255).tolist(), abs=1e-6)
    assert sorted(watched) == ["crash", "wrong"] and replicas == [1, 1, 1, 1]
    assert all(np.isnan(each.mu).all() for each in watched.values())
    wrong = ["rewards.spatialscore=0", "rewards.wrong.kind=python", "rewards.wrong.path=wrong_reward:one_number"]
    rewards = start_rewards(load("scenes", [f"run_dir={tmp_path}", *wrong, "rewards.wrong.weight=1"]))
    try:
        with pytest.raises(UserError, match=r"^rewards.wrong.path=wrong_reward:one_number must return one number per"):
            asyncio.run(rewards.score(ray.put(images), ["a", "b"]))
    finally:
        rewards.stop()

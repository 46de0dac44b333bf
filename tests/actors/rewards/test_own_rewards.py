"""Rewards of your own: the examples of docs/rewards.md, and what happens if a reward breaks its contract."""

from __future__ import annotations

import asyncio
import gzip
import importlib
import inspect
import json
import logging
from dataclasses import replace
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from ray.exceptions import RayTaskError

from actors.rewards.errors import RewardError
from actors.rewards.http_reward import HttpReward
from actors.rewards.python_reward import PythonReward, read_result
from actors.services.keys import Key
from actors.types import Scores
from actors.workers.faults import fault_kind
from actors.workers.reward import RewardPool
from actors.workers.reward_replica import RewardReplica, reward_application
from conf import SettingsError, load
from conf.rewards import RewardTerm
from pipelines.common.reward_sources import check_import_path
from tests.support.guide_code import write_programs
from tests.support.score_server import reply, running, service

IMAGES = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)
PROMPTS = ["a cup", "a jug", "a dog"]
BRIGHTNESS = [float(image.mean()) / 255 for image in IMAGES]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the programs of the guide, in which the process is."""
    write_programs("rewards.md", tmp_path, "my_rewards.py", "service.py")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    return tmp_path


def scored(reward: Any, images: np.ndarray = IMAGES, prompts: list[str] = PROMPTS) -> Scores:
    async def score() -> Scores:
        scores = reward.score(images, prompts)
        return await scores if inspect.isawaitable(scores) else cast(Scores, scores)

    return asyncio.run(score())


def test_the_function_and_the_class_of_the_guide_score_images(folder: Path) -> None:
    for name in ("warmth", "Contrast"):
        check_import_path("mine", f"my_rewards:{name}")
    warm = (IMAGES[..., 0].mean((1, 2)) - IMAGES[..., 2].mean((1, 2))) / 255
    assert scored(PythonReward("warm", "my_rewards:warmth")).mu == pytest.approx(warm, abs=1e-6)
    contrast = [image.std() / 255 for image in IMAGES]
    assert scored(PythonReward("contrast", "my_rewards:Contrast")).mu == pytest.approx(contrast)


def test_the_service_of_the_guide_scores_images(folder: Path) -> None:
    with running(importlib.import_module("service").Handler) as url:
        scores = scored(HttpReward("bright", RewardTerm(kind="http", url=url), None))
    assert scores.mu == pytest.approx(BRIGHTNESS) and scores.sigma.tolist() == [0.0] * 3 and scores.retries == 0


def test_a_result_is_one_number_per_image_or_refused() -> None:
    assert np.isnan(read_result([1, None, float("nan")], 3, "mine").mu[1:]).all()
    for result in ([1, 2], [[1], [2], [3]], 7.0, "abc", None, ["a", "b", "c"], {"mu": [1, 2, 3]}):
        with pytest.raises(RewardError, match=r"^mine must return"):
            read_result(result, 3, "mine")
    with pytest.raises(RewardError, match=r"shape \[3\], got shape \[2\]: return a list"):
        read_result([1, 2], 3, "mine")


def test_what_your_code_raises_is_one_message_with_its_line(folder: Path) -> None:
    lines = [
        "async def late(images, prompts): raise KeyError('weights')",
        "def early(images, prompts): images[:] = 0",
        "class Made:",
        "    def __init__(self): raise RuntimeError('CUDA error: out of memory')",
    ]
    (folder / "raising.py").write_text("\n".join(lines))
    (folder / "needs_more.py").write_text("import not_installed_anywhere")
    frozen = IMAGES.copy()
    frozen.flags.writeable = False  # as those of Ray's object store
    for name, reason in (("late", r"KeyError: 'weights' \(.*raising\.py:1\)"), ("early", r"read-only \(.*py:2\)")):
        with pytest.raises(
            RewardError, match=rf"^rewards\.mine\.path=raising:{name} failed with .*{reason}: correct it"
        ):
            scored(PythonReward("mine", f"raising:{name}"), frozen)
    with pytest.raises(RewardError, match=r"raising:Made cannot be loaded with .*py:4\)") as refused:
        PythonReward("mine", "raising:Made")
    assert fault_kind(refused.value) == "out_of_memory", "a device fault stays one"
    with pytest.raises(RewardError, match=r"cannot be loaded with ModuleNotFoundError: No module .*needs_more\.py:1\)"):
        PythonReward("mine", "needs_more:f")


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("my_reward:warmth", "there is no module my_reward in"),
        ("my_rewards.part:warmth", r"there is no module my_rewards\.part"),
        ("my_rewards:warmht", r"my_rewards\.py has no warmht at its top level"),
        ("broken:f", r"broken\.py cannot be read: invalid syntax"),
    ],
)
def test_a_path_that_leads_nowhere_is_refused_before_anything_runs(folder: Path, path: str, message: str) -> None:
    (folder / "broken.py").write_text("def f(:")
    (folder / "loud.py").write_text("raise RuntimeError('it was run')\ndef f(): ...")
    check_import_path("mine", "loud:f")
    with pytest.raises(SettingsError, match=message):
        check_import_path("mine", path)


def test_failed_requests_are_repeated_and_counted_and_the_token_is_sent_but_not_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    tokens, sizes = list[str | None](), list[int]()

    def answer(handler: BaseHTTPRequestHandler, body: bytes) -> None:
        tokens.append(handler.headers["Authorization"])
        sizes.append(len(json.loads(body)["images"]))
        if len(sizes) in (1, 4):
            reply(handler, b"busy", 503, **{"Retry-After": "0.01"})
        elif len(sizes) == 5:
            reply(handler, b"busy", 429)
        else:
            reply(handler, {"mu": [1.0] * sizes[-1], "sigma": [0.5] * sizes[-1], "more": 1})

    with caplog.at_level(logging.DEBUG), service(answer) as url:
        term = RewardTerm(kind="http", url=url, batch_images=2, retries=1)
        scores = scored(HttpReward("mine", term, Key("the-secret")))
        assert scores.mu.tolist() == [1.0] * 3 and scores.sigma.tolist() == [0.5] * 3 and scores.retries == 1
        assert sizes == [2, 2, 1] and set(tokens) == {"Bearer the-secret"}
        failed = scored(HttpReward("mine", term, Key("the-secret")), IMAGES[:1], PROMPTS[:1])
    assert np.isnan(failed.mu).all() and failed.retries == 1
    assert "1 images have no score: status 429" in caplog.text and "the-secret" not in caplog.text


@pytest.mark.parametrize(
    ("content", "status", "message"),
    [
        (b"no", 404, "refuses a request with status 404: 'no': correct url"),
        (b"", 302, "refuses a request with status 302: .*redirects are not followed, so set url to"),
        (b"", 401, "refuses a request with status 401: .*set token_variable of this reward"),
        (b"<html>", 200, "must answer JSON, got '<html>'"),
        ([1, 2, 3], 200, r'must answer \{"mu"'),
        ({"mu": [1.0, 2.0]}, 200, r"mu must return one number per image, i.e. shape \[3\], got shape \[2\]"),
        ({"mu": [1, 2, 3], "sigma": [0]}, 200, "sigma must return one number per image"),
    ],
)
def test_an_answer_that_breaks_the_contract_is_refused(content: Any, status: int, message: str) -> None:
    with service(lambda handler, _: reply(handler, content, status)) as url, pytest.raises(RewardError, match=message):
        scored(HttpReward("mine", RewardTerm(kind="http", url=url, retries=0), None))


@pytest.mark.parametrize("status", [200, 301, 403])
def test_a_service_that_repeats_the_token_does_not_put_it_into_a_message(status: int) -> None:
    def answer(handler: BaseHTTPRequestHandler, body: bytes) -> None:
        sent = handler.headers["Authorization"]
        reply(handler, {"mu": [sent] * 3}, status, Location=f"http://other/?{sent}")

    term = RewardTerm(kind="http", url="http://x", token_variable="MINE")
    with service(answer) as url, pytest.raises(RewardError, match=r"\*\*\*") as refused:
        scored(HttpReward("mine", replace(term, url=url), Key("the-secret")))
    assert "the-secret" not in str(refused.value)


def test_a_compressed_or_too_large_answer_ends_the_run_instead_of_being_asked_for_again() -> None:
    asked: list[int] = []

    def answer(handler: BaseHTTPRequestHandler, body: bytes) -> None:
        asked.append(len(body))
        reply(handler, gzip.compress(b'{"mu": [1, 2, 3]}'), **{"Content-Encoding": "gzip"})

    with (
        service(answer) as url,
        pytest.raises(RewardError, match=r"url=.* the answer is compressed .*correct the serv"),
    ):
        scored(HttpReward("mine", RewardTerm(kind="http", url=url), None))
    assert len(asked) == 1


def test_a_request_holds_no_more_bytes_than_the_limit() -> None:
    sizes: list[int] = []

    def answer(handler: BaseHTTPRequestHandler, body: bytes) -> None:
        sizes.append(len(body))
        reply(handler, {"mu": [0.0] * len(json.loads(body)["images"])})

    with service(answer) as url:
        reward = HttpReward("mine", RewardTerm(kind="http", url=url), None, max_body=1000)
        assert scored(reward).mu.tolist() == [0.0] * 3
        assert len(sizes) == 2 and max(sizes) <= 1000
        with pytest.raises(RewardError, match=r"an image of .* bytes exceeds a request's 1000"):
            scored(reward, np.random.default_rng(1).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("kind=python path=x", r"rewards\.mine\.path must be like package\.module:function, got 'x'"),
        ("kind=http url=x", r"rewards\.mine\.url must be like http://host:8000/score, got 'x'"),
        ("kind=http url=http://x batch_images=65", "batch_images must be at most 64, got 65"),
        ("kind=python path=a:b url=http://x", r"rewards\.mine\.url is no setting of the kind python: leave it out"),
        ("kind=judge url=http://x", r"rewards\.mine\.url is no setting of the kind judge: set judge\.url"),
        ("kind=python path=a:b min_replicas=2", "max_replicas must be at least .*min_replicas, got 1 < 2"),
    ],
)
def test_settings_that_a_kind_does_not_have_or_needs_are_refused(words: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        load("scenes", [f"rewards.mine.{word}" for word in words.split()])


def test_a_replica_scores_in_a_thread_with_resources_and_an_environment_of_its_own(folder: Path) -> None:
    """Without Ray: the class that Serve deploys, and the options of its deployment."""
    term = RewardTerm(kind="python", path="my_rewards:warmth", gpus=0.25, max_replicas=3, runtime_env={"uv": ["timm"]})
    replica = RewardReplica("warm", term, None, str(folder), {})
    warm = (IMAGES[..., 0].mean((1, 2)) - IMAGES[..., 2].mean((1, 2))) / 255
    assert asyncio.run(replica.score(IMAGES, PROMPTS)).mu == pytest.approx(warm, abs=1e-6)
    deployed: Any = reward_application("warm", term, None, str(folder), load("scenes").serving)._bound_deployment
    assert deployed.ray_actor_options["num_gpus"] == 0.25
    assert deployed.ray_actor_options["runtime_env"]["uv"] == ["timm"]
    autoscaling = deployed._deployment_config.autoscaling_config
    assert (autoscaling.min_replicas, autoscaling.max_replicas) == (1, 3)


def test_a_broken_contract_reaches_the_driver_as_one_message_and_retries_are_counted() -> None:
    class Handle:
        def __init__(self, *answers: Scores | Exception) -> None:
            self.answers, self.score = list(answers), self

        async def remote(self, images: object, prompts: object) -> Scores:
            answer = self.answers.pop(0)
            if isinstance(answer, Exception):
                raise answer
            return answer

    raised = RayTaskError("score", "a traceback", RewardError("rewards.mine must return")).as_instanceof_cause()
    answered = Scores(np.zeros(3, np.float32), np.zeros(3, np.float32), retries=4)
    pool = RewardPool(cast(Any, Handle(answered, raised)), "mine", "RewardReplica", 0)
    assert asyncio.run(pool.score(IMAGES, PROMPTS)) is answered and pool.retries == 4
    with pytest.raises(RewardError, match=r"^rewards\.mine must return$"):
        asyncio.run(pool.score(IMAGES, PROMPTS))

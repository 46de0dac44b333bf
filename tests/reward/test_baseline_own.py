"""Your own rewards as baselines: a function and a service, by the names that section rewards gives them."""

from __future__ import annotations

import sys
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import numpy as np
import pytest

from actors.rewards.errors import RewardError
from actors.services.keys import Key
from conf import SettingsError, load
from pipelines.common.paths import run_paths
from pipelines.reward.baselines.actor import BaselineActor
from pipelines.reward.baselines.own import open_own_baseline
from pipelines.reward.baselines.requirements import require_baselines
from pipelines.reward.baselines.run import plan_of, predict_by_baseline
from pipelines.reward.data import Pair, read_pairs
from pipelines.reward.locations import HELD_OUT, pair_source
from tests.support.scene_pairs import write_scene_pairs
from tests.support.score_server import reply, service

CODE = '''
"""Scores red minus blue. The prompt "nothing" has no score."""
import numpy as np

def warmth(images, prompts):
    pixels = np.asarray(images, np.float32)
    assert pixels.ndim == 4, "one size a call"
    scores = pixels[..., 0].mean((1, 2)) - pixels[..., 2].mean((1, 2))
    return [None if text == "nothing" else score for text, score in zip(prompts, scores)]
'''
OWN = ["rewards.warm.kind=python", "rewards.warm.path=warm_code:warmth", "rewards.warm.weight=0"]


@pytest.fixture(autouse=True)
def code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The module of the reward, in the folder in which the process is, and imported anew by each test."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "warm_code", raising=False)
    file = tmp_path / "warm_code.py"
    file.write_text(CODE)
    return file


def pair(number: int, text: str, side: int) -> Pair:
    images = np.random.default_rng(number).integers(0, 256, (2, side, side, 3), dtype=np.uint8)
    return Pair(str(number), text, None, images[0], images[1], "perturbed", 1)


def warmth(image: np.ndarray) -> float:
    return float(image[..., 0].mean() - image[..., 2].mean())


def test_margins_are_score_differences_for_images_of_several_sizes(tmp_path: Path) -> None:
    settings = load("scenes", [*OWN, "baselines.names=[warm]", "baselines.batch_images=5"])
    pairs = [pair(0, "a", 8), pair(1, "a", 16), pair(2, "nothing", 8), pair(3, "b", 8), pair(4, "b", 8)]
    margin = open_own_baseline("warm", settings, Key(""), str(tmp_path)).judge(pairs).margin
    assert np.isnan(margin[2])
    expected = [warmth(each.image_w) - warmth(each.image_l) for each in pairs]
    assert np.delete(margin, 2).tolist() == pytest.approx(np.delete(expected, 2).tolist(), abs=1e-4)


def test_a_service_is_sent_the_images_and_the_token_chunk_after_chunk() -> None:
    tokens, clients = list[str | None](), set[object]()

    def answer(handler: BaseHTTPRequestHandler, body: bytes) -> None:
        tokens.append(handler.headers["Authorization"])
        clients.add(handler.client_address)
        reply(handler, {"mu": [3.0, 1.0]})

    with service(answer) as url:
        words = ["rewards.mine.kind=http", f"rewards.mine.url={url}", "rewards.mine.token_variable=MINE"]
        settings = load("scenes", [*words, "rewards.mine.weight=0", "baselines.names=[mine]"])
        judge = open_own_baseline("mine", settings, Key("secret"), "")
        for _ in range(2):
            assert judge.judge([pair(0, "a", 8)]).margin.tolist() == [2.0]
    assert tokens == ["Bearer secret"] * 2 and len(clients) == 1, "one connection"


def test_what_is_missing_is_refused_before_ray_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SettingsError, match=r"kind=python or http\) must be .* got 'warn': did you mean warm\?"):
        load("scenes", [*OWN, "baselines.names=[warn]"])
    absent = load("scenes", [*OWN, "rewards.warm.path=warm_code:cold", "baselines.names=[warm]"])
    with pytest.raises(SettingsError, match="has no cold at its top level"):
        require_baselines(absent.baselines.names, absent)
    monkeypatch.delenv("NO_TOKEN", raising=False)
    words = ["rewards.mine.kind=http", "rewards.mine.url=http://host", "rewards.mine.token_variable=NO_TOKEN"]
    closed = load("scenes", [*words, "rewards.mine.weight=0", "baselines.names=[mine]"])
    with pytest.raises(SettingsError, match=r"the token of rewards\.mine is read from \$NO_TOKEN"):
        require_baselines(closed.baselines.names, closed)


def test_predictions_belong_to_the_source_and_broken_code_is_one_message(tmp_path: Path, code: Path) -> None:
    settings = load("scenes", [*OWN, "baselines.names=[warm]"])
    plan = plan_of("warm", settings)
    assert plan_of("warm", load("scenes", [*OWN, "rewards.warm.gpus=1"])) == plan
    code.write_text("if False:\n    warmth = None\n")
    require_baselines(["warm"], settings)
    assert plan_of("warm", settings) != plan
    actor = BaselineActor(plan, settings, run_paths(settings), Key(""), str(tmp_path))
    with pytest.raises(RewardError, match=r"^rewards\.warm\.path=warm_code:warmth cannot be loaded with Attr"):
        actor.open()


@pytest.mark.ray
def test_a_chunk_without_all_scores_is_not_saved(ray_cluster: None, tmp_path: Path, code: Path) -> None:
    words = [*OWN, f"run_dir={tmp_path}/run", "baselines.names=[warm]", "baselines.chunk_pairs=1"]
    settings = load("scenes", words)
    write_scene_pairs(run_paths(settings).preferences, 20)
    pairs = {each.pair_id: each for each in read_pairs(pair_source(settings), HELD_OUT).pairs}
    unscored = min(each.prompt for each in pairs.values())
    code.write_text(CODE.replace('"nothing"', repr(unscored)))
    found = predict_by_baseline("warm", settings, print)
    for key, margin in zip(found.keys, found.predictions.margin.tolist(), strict=True):
        each = pairs.pop(key.pair_id)
        expected = np.nan if each.prompt == unscored else warmth(each.image_w) - warmth(each.image_l)
        assert margin == pytest.approx(expected, abs=1e-4, nan_ok=True)
    assert not pairs
    saved = list(run_paths(settings).baselines.glob("warm-*/*.json"))
    assert len(saved) == int(np.isfinite(found.predictions.margin).sum()) < len(found.keys)

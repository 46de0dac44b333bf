"""Judges behind an endpoint as baselines: both orders, saved answers, the budget; and which baselines are refused."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from actors.services.budget import BudgetReached
from actors.services.keys import Key
from conf import Settings, SettingsError, UserError, load
from pipelines.common.paths import run_paths
from pipelines.reward.baselines.actor import content_digest, make_chunks, open_baseline
from pipelines.reward.baselines.position_bias import TwoOrderPredictions
from pipelines.reward.baselines.requirements import require_device
from pipelines.reward.baselines.run import plan_of, predict_by_baseline
from pipelines.reward.baselines.vlm import parse_choice
from pipelines.reward.data import Pair, read_pairs
from pipelines.reward.locations import HELD_OUT, pair_source
from pipelines.reward.row_groups import RowPlace
from tests.support.openai_server import Behaviour, serving
from tests.support.scene_pairs import write_scene_pairs

PAIRS = 4  # held out


def _judge(body: dict[str, Any], untrue: bool) -> str:
    """Pairwise: prefers the image whose base64 text sorts first. Pointwise: grades by the length of the text."""
    parts = body["messages"][0]["content"]
    urls = [part["image_url"]["url"] for part in parts if part["type"] == "image_url"]
    return ("1" if urls[0] < urls[1] else "2") if len(urls) == 2 else str(len(urls[0]) % 11)


@dataclass(frozen=True)
class JudgeServer:
    """A running server and what it was asked."""

    url: str
    behaviour: Behaviour

    @property
    def calls(self) -> int:
        """Number of questions so far."""
        return len(self.behaviour.bodies)


@pytest.fixture
def server() -> Iterator[JudgeServer]:
    """A server that answers by `_judge`."""
    behaviour = Behaviour(reply=_judge)
    with serving(behaviour) as url:
        yield JudgeServer(url, behaviour)


@pytest.fixture
def settings(tmp_path: Path, server: JudgeServer) -> Settings:
    """A run with held-out pairs, whose baseline GPT-5 is the server."""
    settings = load(
        "scenes",
        [
            f"run_dir={tmp_path}",
            "baselines.names=[GPT-5]",
            f"baselines.urls.GPT-5={server.url}",
            "baselines.chunk_pairs=3",
            "baselines.cpus=0.1",
        ],
    )
    write_scene_pairs(run_paths(settings).preferences, 5 * PAIRS)
    return settings


@pytest.mark.ray
def test_a_judge_is_asked_in_both_orders_and_its_answers_are_saved(
    ray_cluster: None, settings: Settings, server: JudgeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    lines: list[str] = []
    predictions = predict_by_baseline("GPT-5", settings, lines.append).predictions
    assert set(predictions.margin.tolist()) <= {1.0, -1.0}, "a judge that is consistent in both orders gives no tie"
    assert [body["model"] for body in server.behaviour.bodies] == ["gpt-5"] * 2 * PAIRS
    repeated = predict_by_baseline("GPT-5", settings, lines.append).predictions
    assert server.calls == 2 * PAIRS
    assert repeated.margin.tolist() == predictions.margin.tolist()
    assert isinstance(repeated, TwoOrderPredictions), "what was saved knows both orders"
    assert set(repeated.one_order.tolist()) <= {0.0, 1.0}
    counts = [line for line in lines if f"/{PAIRS} pairs" in line]
    assert len(counts) == 2 and f"{PAIRS}/{PAIRS} pairs" in counts[-1]
    graded = replace(settings, baselines=replace(settings.baselines, judge_form="pointwise"))
    assert len(predict_by_baseline("GPT-5", graded, lines.append).keys) == PAIRS
    assert server.calls == 4 * PAIRS
    assert "sk-secret" not in "".join(lines)


@pytest.mark.ray
def test_predictions_are_in_the_order_of_the_ids_and_not_of_the_file(
    ray_cluster: None, settings: Settings, server: JudgeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each chunk is read in the order of the file. SpatialScore's results are sorted by id."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    for path in run_paths(settings).preferences.glob("*.parquet"):
        table = pq.read_table(path)
        pq.write_table(table.take(list(reversed(range(table.num_rows)))), path)
    found = predict_by_baseline("GPT-5", settings, print).predictions
    pairs = read_pairs(pair_source(settings), HELD_OUT).pairs
    judge = open_baseline(plan_of("GPT-5", settings), settings, "cpu", Key("sk-secret"), run_paths(settings))
    assert found.margin.tolist() != found.margin.tolist()[::-1], "the order matters"
    assert found.margin.tolist() == judge.judge(pairs).margin.tolist()


def test_chunks_cut_row_groups_and_join_small_ones() -> None:
    places = [RowPlace("f", "a", 0, (0, 2, 5, 7, 8)), RowPlace("f", "a", 1, (1,)), RowPlace("f", "b", 0, (3,))]
    rows = [[(place.path, place.index, place.rows) for place in chunk] for chunk in make_chunks(places, 3)]
    assert rows == [[("a", 0, (0, 2, 5))], [("a", 0, (7, 8)), ("a", 1, (1,))], [("b", 0, (3,))]]
    assert list(make_chunks([], 3)) == []


@pytest.mark.ray
def test_a_judge_stops_at_the_budget(
    ray_cluster: None, settings: Settings, server: JudgeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    limited = replace(
        settings,
        budget=replace(settings.budget, calls=5),
        baselines=replace(settings.baselines, judge_concurrency=1),
    )
    with pytest.raises(BudgetReached, match=r"budget\.calls=5 is reached"):
        predict_by_baseline("GPT-5", limited, print)
    assert server.calls == 5
    shutil.rmtree(run_paths(settings).baselines, ignore_errors=True)
    predict_by_baseline("GPT-5", replace(limited, budget=settings.budget), print)
    assert server.calls == 2 * PAIRS, "the five paid answers are read from the cache"


def test_a_judge_without_its_key_is_a_user_error(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(UserError, match="OPENAI_API_KEY, which is not set"):
        predict_by_baseline("GPT-5", settings, print)


def test_a_baseline_without_its_package_is_a_user_error(settings: Settings) -> None:
    installed = replace(settings, baselines=replace(settings.baselines, isolated=False, models={"HPSv3": "weights"}))
    with pytest.raises(UserError, match=r"hpsv3 needs the package hpsv3.*baselines\.isolated=true"):
        predict_by_baseline("HPSv3", installed, print)


def test_a_scorer_of_billions_of_parameters_needs_a_gpu() -> None:
    for name in ("HPSv3", "VQAScore", "UnifiedReward"):
        with pytest.raises(SettingsError, match=rf"baselines\.gpus is 0, but {name} has .* billion"):
            require_device([name], load("scenes", [f"baselines.names=[{name}]"]).baselines)
    require_device(["PickScore", "HPSv2.1", "ImageReward", "GPT-5"], load("scenes").baselines)
    require_device(["HPSv3"], load("scenes", ["baselines.models.HPSv3=weights"]).baselines)
    require_device(["HPSv3", "VQAScore"], load("flux_dev").baselines)


def test_an_unknown_baseline_is_refused() -> None:
    with pytest.raises(SettingsError, match="did you mean HPSv3"):
        load("scenes", ["baselines.names=[HPSv4]"])


def test_only_a_single_number_is_a_choice() -> None:
    assert parse_choice("1") == 1.0
    assert parse_choice("Image 2.") == -1.0
    assert np.isnan(parse_choice("1 or 2"))
    assert np.isnan(parse_choice("3"))


def test_saved_predictions_belong_to_prompts_and_pixels() -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), dtype=np.uint8)
    pair = Pair("0", "a red circle", None, images[0], images[1], "perturbed", 1)
    same = replace(pair, image_w=images[0].copy())
    assert content_digest([pair]) == content_digest([same])
    swapped, reworded = replace(pair, image_w=images[1], image_l=images[0]), replace(pair, prompt="a blue square")
    others = ([pair], [swapped], [pair, swapped], [reworded])
    assert len({content_digest(pairs) for pairs in others}) == 4

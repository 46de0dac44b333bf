"""The rewards by rules as baselines: tiny random detectors of the real classes, and pairs that they can read or not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from actors.rewards.depth_rules import DepthRulesReward
from actors.rewards.detector import DetectorReward
from actors.types import Relation
from conf import SettingsError, load
from conf.rewards import RewardTerm
from pipelines.common.paths import run_paths
from pipelines.reward.baselines.rules import open_rules_baseline
from pipelines.reward.baselines.run import plan_of
from pipelines.reward.data import Pair, mirrored, read_pairs
from pipelines.reward.locations import HELD_OUT, pair_source
from tests.support.scene_pairs import write_scene_pairs
from tests.support.tiny_depth import save_tiny_depth_anything, save_tiny_grounding_dino
from tests.support.tiny_owlv2 import save_tiny_owlv2

LEFT = (Relation("red circle", "left of", "blue square"),)


def pair(text: str, relations: tuple[Relation, ...]) -> Pair:
    """A pair of random images."""
    images = np.random.default_rng(len(text)).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    return Pair("0", text, None, images[0], images[1], "perturbed", 1, relations=relations)


PAIRS = (
    pair("a red circle left of a blue square", LEFT),
    pair("a red circle juggled by a blue square", (Relation("red circle", "juggled by", "blue square"),)),
    pair("a red circle", ()),
    pair("a blue square to the right of a red circle", (Relation("blue square", "to the right of", "red circle"),)),
)


def test_margins_are_those_of_the_reward_and_other_relations_have_no_answer(tmp_path: Path) -> None:
    model, dino, depth = (tmp_path / name for name in ("owlv2", "dino", "depth"))
    save_tiny_owlv2(model), save_tiny_grounding_dino(dino), save_tiny_depth_anything(depth)
    words = [f"rewards.depth_rules.depth_model={depth}", "rewards.depth_rules.threshold=0", "detector.threshold=0"]
    settings = load("scenes", [*words, f"baselines.models.Detector={model}", f"baselines.models.DepthRules={dino}"])
    known = {PAIRS[0].prompt: LEFT, PAIRS[3].prompt: LEFT}
    term = RewardTerm(model=str(dino), depth_model=str(depth), threshold=0)
    for name, reward in (
        ("Detector", DetectorReward(replace(settings.detector, model=str(model)), known)),
        ("DepthRules", DepthRulesReward(term, "cpu", known)),
    ):
        found = open_rules_baseline(name, settings, "cpu").judge(PAIRS).margin
        assert np.isnan(found[[1, 2]]).all(), name
        for number in (0, 3):
            images = [PAIRS[number].image_w, PAIRS[number].image_l]
            better, worse = reward.score(images, [PAIRS[number].prompt] * 2).mu.tolist()
            assert found[number] == pytest.approx(better - worse), name


def test_predictions_are_saved_apart_for_other_thresholds() -> None:
    with pytest.raises(SettingsError, match="did you mean Detector"):
        load("scenes", ["baselines.names=[Detectors]"])
    plans = {plan_of("Detector", load("scenes", [f"detector.threshold={bound}"])).model for bound in (0.2, 0.3)}
    assert len(plans) == 2


def test_the_pairs_of_a_run_state_their_relations(tmp_path: Path) -> None:
    settings = load("scenes", [f"run_dir={tmp_path}"])
    write_scene_pairs(run_paths(settings).preferences, 10)
    pairs = read_pairs(pair_source(settings), HELD_OUT).pairs
    assert pairs and all(each.relations for each in pairs)
    turned = mirrored(pair("a red circle left of a blue square", LEFT))
    assert turned.relations == (Relation("red circle", "right of", "blue square"),)

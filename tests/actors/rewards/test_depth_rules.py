"""Rules in three dimensions: exact on synthetic boxes and depth maps, and the real classes with random weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from actors.reward_input import InputError
from actors.rewards.depth_order import DEPTH_RELATIONS, Margins, nearness_in, relations_of
from actors.rewards.depth_rules import DepthRulesReward, satisfied
from actors.rewards.directions import Box
from actors.types import Relation
from conf.rewards import RewardTerm
from tests.support.tiny_depth import save_tiny_depth_anything, save_tiny_grounding_dino

MARGINS = Margins(box=0.1, depth=0.1, size=0.2)
WIDE: Box = (0.5, 0.5, 0.8, 0.4)
SMALL: Box = (0.5, 0.6, 0.2, 0.2)
ASIDE: Box = (0.9, 0.5, 0.1, 0.4)


def scene(*layers: tuple[Box, float], floor: bool = True) -> np.ndarray:
    """A map of nearness, 100 x 100: a floor that comes nearer from 0 to 1, and boxes, later ones over earlier ones."""
    nearness = np.repeat(np.linspace(0, 1, 100)[:, None], 100, 1) if floor else np.zeros((100, 100))
    for (x, y, width, height), value in layers:
        top, bottom = round((y - height / 2) * 100), round((y + height / 2) * 100)
        left, right = round((x - width / 2) * 100), round((x + width / 2) * 100)
        nearness[top:bottom, left:right] = value
    return nearness


def test_an_object_before_another_one_is_in_front_of_it_and_that_one_is_behind() -> None:
    nearness = scene((WIDE, 0.3), (SMALL, 0.8))
    assert relations_of(SMALL, WIDE, nearness, MARGINS) == {"in front of", "nearer than", "smaller than"}
    assert relations_of(WIDE, SMALL, nearness, MARGINS) == {"behind", "farther than", "larger than"}


def test_without_an_overlap_along_x_one_is_nearer_and_neither_is_in_front() -> None:
    left: Box = (0.2, 0.5, 0.2, 0.4)
    nearness = scene((left, 0.9), (ASIDE, 0.2))
    assert relations_of(left, ASIDE, nearness, MARGINS) == {"left of", "nearer than", "larger than"}
    assert relations_of(ASIDE, left, nearness, MARGINS) == {"right of", "farther than", "smaller than"}


def test_an_order_that_is_not_clear_is_none() -> None:
    """The range of nearness, from its 5th to its 95th percentile, is 0.9 here: 0.09 is needed."""
    for difference, clear in ((0.08, False), (0.10, True)):
        nearness = np.tile(np.linspace(0, 1, 101), (101, 1))
        a, b = (0.5, 0.2, 1.0, 0.2), (0.5, 0.8, 1.0, 0.2)
        nearness[:50] += difference / 2
        nearness[50:] -= difference / 2
        low, high = np.percentile(nearness, (5, 95))
        assert ("in front of" in relations_of(a, b, nearness, Margins(0.1, 0.09 / (high - low), 0.2))) == clear
    flat = np.ones((10, 10))
    assert not {"nearer than", "farther than"} & relations_of(WIDE, SMALL, flat, MARGINS)


def test_pixels_of_the_object_before_it_do_not_count_for_a_hidden_one() -> None:
    half: Box = (0.5, 0.5, 0.7, 0.4)  # hides most of WIDE
    nearness = scene((WIDE, 0.2), (half, 0.9), floor=False)
    assert nearness_in(WIDE, half, nearness) == pytest.approx(0.9), "less than a quarter remains"
    third: Box = (0.35, 0.5, 0.5, 0.4)
    assert nearness_in(WIDE, third, scene((WIDE, 0.2), (third, 0.9), floor=False)) == pytest.approx(0.2)


def test_objects_and_relations_count_one_each() -> None:
    relations = [
        Relation("cup", "in front of", "box"),
        Relation("cup", "left of", "box"),
        Relation("cup", "above", "jug"),
    ]
    found = {"cup": SMALL, "box": WIDE}
    assert satisfied(relations, found, scene((WIDE, 0.3), (SMALL, 0.8)), MARGINS) == (2 + 1) / (3 + 3)
    assert satisfied(relations, {}, scene(), MARGINS) == 0


def test_the_real_classes_with_random_weights_give_boxes_maps_and_scores(tmp_path: Path) -> None:
    detector, depth = save_tiny_grounding_dino(tmp_path / "dino"), save_tiny_depth_anything(tmp_path / "depth")
    term = RewardTerm(kind="depth_rules", model=str(detector), depth_model=str(depth), threshold=0.0, batch_images=2)
    known = {"p": (Relation("red circle", "in front of", "blue square"),), "q": (Relation("a", "behind", "b"),)}
    reward = DepthRulesReward(term, "cpu", known)
    images = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)
    found = reward.find(images, [["red circle", "blue square"], ["a", "b"], ["a"]])
    assert [list(boxes) for boxes in found] == [["red circle", "blue square"], ["a", "b"], ["a"]]
    assert all(0 <= value <= 1 for boxes in found for box in boxes.values() for value in box)
    maps = reward.nearness(images)
    assert len(maps) == 3 and maps[0].ndim == 2 and np.isfinite(maps[0]).all()
    scores = reward.score(images, ["p", "q", "p"])
    by_hand = [
        satisfied(known[prompt], boxes, near, Margins(term.margin, term.depth_margin, term.size_margin))
        for prompt, boxes, near in zip("pq", reward.find(images[:2], [["red circle", "blue square"], ["a", "b"]]),
                                       maps, strict=False)
    ]  # fmt: skip
    assert scores.mu[:2].tolist() == pytest.approx(by_hand) and scores.mu.min() >= 2 / 3
    none = DepthRulesReward(RewardTerm(model=str(detector), depth_model=str(depth), threshold=1.0), "cpu", known)
    assert none.score(images, ["p", "q", "p"]).mu.tolist() == [0.0] * 3
    with pytest.raises(InputError, match="no relations are known for the prompt 'other'"):
        reward.score(images[:1], ["other"])
    assert set(DEPTH_RELATIONS) >= {relation.relation for each in known.values() for relation in each}

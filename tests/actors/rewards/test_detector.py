"""GenEval's rule on boxes made by hand, and an OWLv2 of the real class with random weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import Owlv2ForObjectDetection, Owlv2Processor

from actors.rewards.detector import Box, DetectorReward, directions, satisfied_fraction
from actors.types import Relation, objects_of
from conf.detector import DetectorSettings
from tests.support.tiny_owlv2 import save_tiny_owlv2

MARGIN = 0.1
CUP, PLATE, BALL = "red circle", "blue square", "green star"
ONE = "a red circle left of a blue square"
TWO = "a red circle left of a blue square, and a green star above the blue square"
RELATIONS = {
    ONE: (Relation(CUP, "left of", PLATE),),
    TWO: (Relation(CUP, "left of", PLATE), Relation(BALL, "above", PLATE)),
}


@pytest.fixture(scope="module")
def owlv2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_owlv2(tmp_path_factory.mktemp("owlv2"))


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (5, 40, 40, 3), dtype=np.uint8)


def box(x: float, y: float, width: float = 0.2, height: float = 0.2) -> Box:
    return (x, y, width, height)


@pytest.mark.parametrize(
    ("a", "found"),
    [
        (box(0.1, 0.5), {"left of"}),
        (box(0.9, 0.55), {"right of"}),
        (box(0.5, 0.1), {"above"}),  # y grows downwards
        (box(0.5, 0.9), {"below"}),
        (box(0.9, 0.9), {"right of", "below"}),  # a diagonal: 0.36 of 0.566 either way
        (box(0.7, 0.7), {"right of", "below"}),  # 0.16 of 0.283
        (box(0.54, 0.5), set()),  # the offset equals a tenth of both widths
        (box(0.58, 0.5), set()),  # 0.04 clear of 0.08: half is not more than half
        (box(0.59, 0.5), {"right of"}),
        (box(0.9, 0.5, width=2.0), set()),  # the wide box spans the other one
        (box(0.5, 0.5), set()),
    ],
)
def test_directions_are_those_of_geneval(a: Box, found: set[str]) -> None:
    assert directions(a, box(0.5, 0.5), MARGIN) == found


def test_objects_and_relations_count_the_same_and_a_missing_object_breaks_its_relations() -> None:
    assert objects_of(RELATIONS[TWO]) == [CUP, PLATE, BALL]
    right = {CUP: box(0.1, 0.8), PLATE: box(0.6, 0.8), BALL: box(0.6, 0.2)}
    assert satisfied_fraction(RELATIONS[TWO], right, MARGIN) == 1.0
    assert satisfied_fraction(RELATIONS[TWO], right | {BALL: box(0.2, 0.8)}, MARGIN) == 4 / 5
    assert satisfied_fraction(RELATIONS[TWO], {CUP: right[CUP], BALL: right[BALL]}, MARGIN) == 2 / 5
    assert satisfied_fraction(RELATIONS[TWO], {}, MARGIN) == 0.0


def test_found_boxes_equal_those_of_the_librarys_post_processing(owlv2: Path, images: np.ndarray) -> None:
    names = [[CUP, PLATE], [CUP, PLATE, BALL], [BALL], [PLATE, BALL], [CUP]]
    reward = DetectorReward(DetectorSettings(str(owlv2), threshold=0.0), {})
    found = reward.find(images, names)
    processor = Owlv2Processor.from_pretrained(owlv2)
    model = Owlv2ForObjectDetection.from_pretrained(owlv2).eval()
    assert sum(len(each) for each in found) >= 7, "random weights find most names"
    for image, image_names, boxes in zip(images, names, found, strict=True):
        inputs = processor(text=[[f"a photo of a {name}" for name in image_names]], images=[image], return_tensors="pt")
        with torch.no_grad():
            outputs = model(**inputs)
        (library,) = processor.post_process_grounded_object_detection(
            outputs, threshold=0.0, target_sizes=[(40, 40)], text_labels=[image_names]
        )
        best: dict[str, tuple[float, list[float]]] = {}
        for score, box_corners, label in zip(library["scores"], library["boxes"], library["text_labels"], strict=True):
            best[label] = max(best.get(label, (0.0, [])), (float(score), box_corners.tolist()))
        assert boxes.keys() == best.keys()
        for name, (x, y, width, height) in boxes.items():
            corners = np.array([x - width / 2, y - height / 2, x + width / 2, y + height / 2]) * 40
            np.testing.assert_allclose(corners, best[name][1], atol=2e-3)


def test_scores_do_not_depend_on_the_batch(owlv2: Path, images: np.ndarray) -> None:
    prompts = (ONE, TWO, ONE, TWO, TWO)
    one, many = (
        DetectorReward(DetectorSettings(str(owlv2), threshold=0.0, batch_images=batch), RELATIONS).score(
            images, prompts
        )
        for batch in (1, 3)
    )
    assert one.mu.tolist() == many.mu.tolist()
    assert len(set(one.mu.tolist())) > 1
    assert set(one.sigma.tolist()) == {0.0}
    assert one.mu.dtype == np.float32


def test_nothing_is_found_below_the_threshold_and_unknown_prompts_are_refused(owlv2: Path, images: np.ndarray) -> None:
    reward = DetectorReward(DetectorSettings(str(owlv2), threshold=0.99), RELATIONS)
    assert reward.score(images[:1], [ONE]).mu.tolist() == [0.0]
    with pytest.raises(ValueError, match="no relations are known for the prompt 'a cat on a mat'"):
        reward.score(images[:1], ["a cat on a mat"])
    with pytest.raises(ValueError, match="2 images and 1 prompts"):
        reward.score(images[:2], [ONE])

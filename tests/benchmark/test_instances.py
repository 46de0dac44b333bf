"""GenEval's judge in transformers: the post-processing by hand, and the real classes with random weights."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import (
    Mask2FormerConfig,
    Mask2FormerForUniversalSegmentation,
    Mask2FormerImageProcessorPil,
    SwinConfig,
)

from pipelines.benchmark.instances import Instance, InstanceDetector, cut_out, instances_of

NAMES = ("cat", "dog")


def test_the_confidence_is_class_times_mask_and_the_box_is_the_mask_s_extent() -> None:
    masks = torch.full((1, 6, 8), -10.0)
    masks[0, 1:4, 2:7] = 1.0
    classes = torch.tensor([[2.0, 0.0, 0.0]])
    found = instances_of(classes, masks, NAMES)
    probability = math.exp(2) / (math.exp(2) + 2)
    assert found[0].name == "cat" and found[0].box == (2.0, 1.0, 7.0, 4.0)
    assert found[0].score == pytest.approx(probability * (1 / (1 + math.exp(-1))), rel=1e-5)
    assert found[1].name == "dog" and found[1].score < found[0].score
    assert found[0].mask.sum() == 15


def test_no_object_and_empty_masks_are_left_out() -> None:
    masks = torch.stack([torch.full((4, 4), -1.0), torch.ones(4, 4)])
    classes = torch.tensor([[9.0, 0.0, 0.0], [0.0, 0.0, 9.0]])
    assert instances_of(classes, masks, NAMES) == []


def test_an_object_is_cut_out_on_grey() -> None:
    image = np.zeros((4, 6, 3), np.uint8)
    image[1, 2] = (255, 0, 0)
    mask = np.zeros((4, 6), bool)
    mask[1, 2] = mask[2, 3] = True
    shown = np.asarray(cut_out(image, Instance("cat", 1.0, (2.0, 1.0, 4.0, 3.0), mask)))
    assert shown.shape == (2, 2, 3)
    assert shown[0, 0].tolist() == [255, 0, 0] and shown[0, 1].tolist() == [0x99] * 3
    assert shown[1, 1].tolist() == [0, 0, 0]


def test_a_random_mask2former_of_the_real_class_finds_instances(tmp_path: Path) -> None:
    torch.manual_seed(0)
    backbone = SwinConfig(
        image_size=64, embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 2, 2], window_size=4,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )  # fmt: skip
    config = Mask2FormerConfig(
        backbone_config=backbone, feature_size=32, mask_feature_size=32, hidden_dim=32, encoder_feedforward_dim=16,
        encoder_layers=1, decoder_layers=2, num_attention_heads=2, dim_feedforward=16, num_queries=6,
        id2label={0: "cat", 1: "dog"}, label2id={"cat": 0, "dog": 1},
    )  # fmt: skip
    Mask2FormerForUniversalSegmentation(config).save_pretrained(tmp_path)
    Mask2FormerImageProcessorPil(size={"height": 64, "width": 64}).save_pretrained(tmp_path)
    image = np.random.default_rng(0).integers(0, 255, (48, 80, 3), dtype=np.uint8)
    found = InstanceDetector(str(tmp_path), torch.device("cpu")).find(image)
    assert found and {each.name for each in found} <= set(NAMES)
    assert all(each.mask.shape == (48, 80) and each.box[2] <= 80 and each.box[3] <= 48 for each in found)
    assert [each.score for each in found] == sorted((each.score for each in found), reverse=True)

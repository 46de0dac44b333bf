"""Patches equal the library's, and positions equal Qwen2.5-VL's 2-D positions."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from actors.spatialscore import SpatialScore
from tests.support.tiny_reward import PROMPTS


def test_batched_patches_equal_the_librarys(model: SpatialScore, images: np.ndarray) -> None:
    pixels, grid = model.processor.patches(images)
    expected = model.processor.image_processor(list(images), return_tensors="pt", input_data_format="channels_last")
    torch.testing.assert_close(pixels, expected["pixel_values"], rtol=0, atol=1e-6)
    assert torch.equal(grid, expected["image_grid_thw"])


def test_images_of_other_sizes_are_resized_to_the_configured_pixels(model: SpatialScore) -> None:
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, size, dtype=np.uint8) for size in ((64, 64, 3), (128, 32, 3), (200, 210, 3))]
    pixels, grid = model.processor.patches(images)
    assert [int(g.prod()) * 64 for g in grid] == [4096, 4096, 3072]  # whole tokens of 16 x 16 pixels, at most `pixels`
    assert pixels.shape[0] == int(grid.prod(1).sum())
    assert grid[1].tolist() == [1, 16, 4]


def test_positions_equal_those_of_qwen2_5_vl(model: SpatialScore, images: np.ndarray) -> None:
    backbone = model.vlm
    batch = model.processor([images[0], images[1, :32], images[2, :, :32]], PROMPTS, padding_side="left")
    assert batch.attention_mask is not None
    image = (batch.input_ids == model.processor.template.image_id).int()
    expected, _ = backbone.get_rope_index(
        batch.input_ids, image, image_grid_thw=batch.image_grid_thw, attention_mask=batch.attention_mask
    )
    kept = batch.attention_mask.bool()
    assert torch.equal(batch.position_ids[:, kept], expected[:, kept])
    rows, columns = batch.position_ids[1, 0][image[0].bool()], batch.position_ids[2, 0][image[0].bool()]
    assert rows.tolist() == [3 + i // 4 for i in range(16)]
    assert columns.tolist() == [3 + i % 4 for i in range(16)]


@pytest.mark.parametrize("wrong", [np.zeros((1, 64, 64, 3), np.float32), np.zeros((1, 64, 64, 4), np.uint8)])
def test_pixels_that_are_not_uint8_rgb_are_refused(model: SpatialScore, wrong: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"uint8 \[H, W, 3\]"):
        model.processor(wrong, PROMPTS[:1])

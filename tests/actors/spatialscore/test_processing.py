"""Patches equal the library's, and positions equal Qwen2.5-VL's 2-D positions."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from actors.images import decode_image
from actors.spatialscore import SpatialScore, SpatialScorer
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


def test_pil_images_score_as_their_pixels(model: SpatialScore, images: np.ndarray) -> None:
    """Also with transparency, and an orientation that PIL has not applied."""
    scorer, prompts = SpatialScorer(model), ["a red circle"] * 3
    exif = Image.Exif()
    exif[0x0112] = 3
    buffer = io.BytesIO()
    Image.fromarray(images[1]).save(buffer, "PNG", exif=exif)
    clear = Image.fromarray(np.dstack([images[2], np.zeros((64, 64), np.uint8)]))
    found = scorer.score(images=[Image.fromarray(images[0]), Image.open(buffer), clear], prompts=prompts)
    white = np.full((64, 64, 3), 255, np.uint8)
    expected = scorer.score(images=[images[0], images[1][::-1, ::-1], white], prompts=prompts)
    np.testing.assert_array_equal(found.mu, expected.mu)


@pytest.mark.parametrize(
    ("wrong", "prompts", "message"),
    [
        (Image.new("RGB", (64, 64)), ["a red circle"], r"got one image: write \[image\]"),
        (np.zeros((64, 64, 3), np.uint8), ["a red circle"], r"got one image: write \[image\]"),
        ([Image.new("RGB", (64, 64))], "a red circle", "a list of texts, one for each image, got one text"),
        ([Image.new("RGB", (64, 64))] * 2, ["a red circle"], "got 2 images and 1 prompts"),
        (["image.png"], ["a red circle"], "got an object of class str"),
        ([torch.zeros(3, 64, 64)], ["a red circle"], "got an object of class Tensor"),
        ([Image.new("F", (64, 64))], ["a red circle"], "mode F"),
        ([Image.new("RGB", (402, 2))], ["a red circle"], "402 x 2 pixels"),
    ],
)
def test_what_cannot_be_scored_is_refused_with_the_reason(
    model: SpatialScore, wrong: Any, prompts: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        SpatialScorer(model).score(images=wrong, prompts=prompts)


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_shrinking_to_the_useful_pixels_hardly_changes_what_the_model_sees(model: SpatialScore, kind: str) -> None:
    pattern = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pattern).resize((700, 700), Image.Resampling.BICUBIC).save(buffer, kind, quality=95)
    small = decode_image(buffer.getvalue(), shrink_to=model.processor.useful_pixels)
    assert small.shape == (128, 128, 3)
    patches, grid = model.processor.patches([decode_image(buffer.getvalue())])
    shrunk, same_grid = model.processor.patches([small])
    assert torch.equal(grid, same_grid)
    assert (patches - shrunk).abs().mean() < 0.02 * patches.std()

"""The vision tower with one attention call for all windows equals the library's, which makes one for each."""

from __future__ import annotations

from collections.abc import Sequence
from unittest.mock import patch

import pytest
import torch
from torch import nn
from transformers.models.qwen2_5_vl.configuration_qwen2_5_vl import Qwen2_5_VLConfig
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLModel, Qwen2_5_VLVisionAttention

from actors.spatialscore.vision_attention import EqualWindowAttention, use_equal_windows

VISION = {
    "depth": 3,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_heads": 4,
    "out_hidden_size": 32,
    "window_size": 112,
    "fullatt_block_indexes": [2],
}
TEXT = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [2, 3, 3]},
}


@pytest.mark.parametrize("sides", [[(16, 16), (16, 16)], [(16, 16), (16, 24)], [(12, 20), (8, 8), (16, 16)]])
def test_the_features_equal_the_librarys_for_equal_and_for_unequal_windows(sides: Sequence[tuple[int, int]]) -> None:
    """sides: rows and columns of patches of each image; a window has 8 x 8 patches."""
    torch.manual_seed(0)
    config = Qwen2_5_VLConfig(text_config=TEXT, vision_config=VISION, attn_implementation="sdpa")
    backbone = Qwen2_5_VLModel(config).eval()
    grid = torch.tensor([[1, rows, columns] for rows, columns in sides])
    pixels = torch.randn(int(grid.prod(1).sum()), 3 * 2 * 14 * 14)
    attention, calls = nn.functional.scaled_dot_product_attention, [0, 0]

    def features(number: int) -> torch.Tensor:
        def counted(*inputs: torch.Tensor, **options: object) -> torch.Tensor:
            calls[number] += 1
            return attention(*inputs, **options)  # pyright: ignore[reportArgumentType]

        with torch.inference_mode(), patch("torch.nn.functional.scaled_dot_product_attention", counted):
            return torch.cat(backbone.get_image_features(pixels, grid).pooler_output)

    library = features(0)
    use_equal_windows(backbone.visual)
    names = {type(block.attn) for block in backbone.visual.blocks}
    assert names == {EqualWindowAttention}
    torch.testing.assert_close(features(1), library, rtol=1e-4, atol=1e-5)
    if len(set(sides)) == 1:
        assert calls == [2 * 8 + 2, 3], "four windows of each image in two layers, and one call an image in the last"
    assert calls[1] <= calls[0]


def test_eager_attention_stays_the_librarys() -> None:
    config = Qwen2_5_VLConfig(text_config=TEXT, vision_config=VISION, attn_implementation="eager")
    backbone = Qwen2_5_VLModel(config)
    use_equal_windows(backbone.visual)
    assert {type(block.attn) for block in backbone.visual.blocks} == {Qwen2_5_VLVisionAttention}

"""A Qwen2.5-VL with the widths and the vocabulary of the 7B model, few layers, and random weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from pipelines.planning.architectures import SCORES
from pipelines.pretrain.vlm_model import SPECIAL, build_tokenizer
from tests.support.full_width_flux import default_dtype

PUBLISHED_PROCESSOR: dict[str, Any] = {
    "min_pixels": 3136,
    "max_pixels": 12845056,
    "patch_size": 14,
    "temporal_patch_size": 2,
    "merge_size": 2,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "image_processor_type": "Qwen2VLImageProcessor",
    "processor_class": "Qwen2_5_VLProcessor",
}
"""preprocessor_config.json of Qwen2.5-VL-7B-Instruct at Hugging Face."""


def save_full_width_vlm(path: Path, layers: int) -> None:
    """Writes a transformers directory in bfloat16: 3584 wide, 152,064 embedding rows, the published image processor.

    The tokenizer has the words of the scenes world. Output layer and embedding are tied, as in the 3B model, which
    halves the file; scores do not use the output layer.
    """
    torch.manual_seed(0)
    tokenizer, published = build_tokenizer(), SCORES["Qwen/Qwen2.5-VL-7B-Instruct"]
    ids = {name: tokenizer.get_vocab()[name] for name in SPECIAL}
    config = Qwen2_5_VLConfig(
        text_config={**published.text, "num_hidden_layers": layers, "tie_word_embeddings": True},
        vision_config={**published.vision, "depth": layers, "fullatt_block_indexes": [layers - 1]},
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=True,
        dtype="bfloat16",
    )
    with default_dtype(torch.bfloat16), torch.device("meta"):
        model = Qwen2_5_VLForConditionalGeneration(config)
    _fill(model.to_empty(device="cpu"))
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    (path / "preprocessor_config.json").write_text(json.dumps(PUBLISHED_PROCESSOR))


@torch.no_grad()
def _fill(model: Qwen2_5_VLForConditionalGeneration) -> None:
    """Normal weights with the library's standard deviation, repeated every million: a tenth of the library's time."""
    for name, parameter in model.named_parameters():
        if "norm" in name or name.endswith("ln_q.weight"):
            parameter.fill_(1.0)
            continue
        block = 0.02 * torch.randn(min(parameter.numel(), 2**20), dtype=torch.bfloat16)
        for part in parameter.view(-1).split(len(block)):
            part.copy_(block[: len(part)])

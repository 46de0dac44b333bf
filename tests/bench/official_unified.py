"""Our side of official_baselines.py for UnifiedReward: what its model says to a question about two image files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLImageProcessorPil,
)

from actors.images import decode_image
from actors.rewards.unified_reward import QUESTION, Comparison, UnifiedReward
from pipelines.pretrain.vlm_model import CHAT_TEMPLATE
from tests.bench.official_clips import PROMPTS, image_files

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>")
_BYTES = 256


def unified_reward(folder: Path) -> np.ndarray:
    """Logits of the first token of each answer  # [questions, vocabulary]. Two questions share a forward pass."""
    _save_model(folder)
    model: Any = Qwen2_5_VLForConditionalGeneration.from_pretrained(folder)
    files, seen = image_files(folder)[:6], list[torch.Tensor]()
    model.register_forward_hook(lambda _module, _inputs, output: seen.append(output.logits[:, -1]))
    pairs = [(files[number], files[(number + 1) % len(files)]) for number in range(len(files))]
    questions = [QUESTION.format(prompt=prompt) for prompt, _ in zip(PROMPTS, pairs, strict=False)]
    torch.save({"files": pairs, "questions": questions}, folder / "input.pt")
    images = [[decode_image(Path(file).read_bytes()) for file in pair] for pair in pairs]
    judge = UnifiedReward(model, str(folder), "cpu", pairs=2, new_tokens=1)
    judge.compare([Comparison(first, second, prompt) for (first, second), prompt in zip(images, PROMPTS, strict=False)])
    return torch.cat(seen).numpy()


def _save_model(folder: Path) -> None:
    """A small random Qwen2.5-VL with the published patches and bounds of images, and a token for each byte."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    ids = {letter: number for number, letter in enumerate(letters)}
    base: Any = Tokenizer(models.BPE(vocab=ids, merges=[]))
    base.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    base.decoder = decoders.ByteLevel()
    base.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in SPECIAL])
    ends: Any = {"pad_token": "<|endoftext|>", "eos_token": "<|im_end|>"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=base, additional_special_tokens=list(SPECIAL[3:]), **ends)
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.save_pretrained(folder)
    Qwen2VLImageProcessorPil(min_pixels=56 * 56, max_pixels=28 * 28 * 1280).save_pretrained(folder)
    numbers: dict[str, int] = {token: _BYTES + number for number, token in enumerate(SPECIAL)}
    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": _BYTES + len(SPECIAL) + 2,
            "hidden_size": 96,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 3,
            "num_key_value_heads": 3,
            "max_position_embeddings": 8192,
            "initializer_range": 0.1,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 6, 6]},
            "bos_token_id": numbers["<|endoftext|>"],
            "eos_token_id": numbers["<|im_end|>"],
        },
        vision_config={
            "depth": 2,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_heads": 2,
            "out_hidden_size": 96,
            "fullatt_block_indexes": [1],
        },
        image_token_id=numbers["<|image_pad|>"],
        video_token_id=_BYTES + len(SPECIAL),
        vision_start_token_id=numbers["<|vision_start|>"],
        vision_end_token_id=numbers["<|vision_end|>"],
        tie_word_embeddings=False,
    )
    Qwen2_5_VLForConditionalGeneration(config).save_pretrained(folder)
    saved = json.loads((folder / "config.json").read_text())  # with the older names, as in the published file
    del saved["text_config"]["rope_parameters"]
    sections = {"type": "mrope", "rope_type": "default", "mrope_section": [4, 6, 6]}
    saved["text_config"] |= {"rope_theta": 10000.0, "rope_scaling": sections}
    (folder / "config.json").write_text(json.dumps(saved))

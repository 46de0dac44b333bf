"""Sizes of the small models of official_baselines.py. Both sides import them, so nothing else is imported here."""

from __future__ import annotations

from typing import Any

ROWS, LENGTH, WIDTH = 3, 40, 32
SIDE, PATCH = 32, 8
IMAGE_ID, REWARD_ID, VOCABULARY = 6, 9, 128
QWEN_TEXT: dict[str, Any] = {
    "hidden_size": 48,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": VOCABULARY,
    "initializer_range": 0.3,
}
QWEN_VISION: dict[str, Any] = {
    "depth": 2,
    "embed_dim": WIDTH,
    "hidden_size": 48,
    "num_heads": 2,
    "patch_size": PATCH,
    "mlp_ratio": 2,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
}
BERT: dict[str, Any] = {
    "hidden_size": WIDTH,
    "intermediate_size": 4 * WIDTH,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 64,
}
T5: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 48,
    "num_layers": 2,
    "num_heads": 2,
    "pad_token_id": 0,
    "decoder_start_token_id": 0,
    "tie_word_embeddings": False,
    "mm_hidden_size": 24,
}
TOWER: dict[str, Any] = {
    "hidden_size": 24,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": SIDE,
    "patch_size": PATCH,
}
CLIP: dict[str, int] = {
    "embed": 64,
    "side": 224,
    "patch": 32,
    "layers": 2,
    "width": 128,
    "length": 77,
    "vocabulary": 49408,
}
"""A CLIP with the published tokenizer, number of positions and size of images."""
HPSV3_WIDTHS = (1024, 16)
"""Of the published head."""

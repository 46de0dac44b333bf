"""A GroundingDINO and a Depth-Anything of the real classes with random weights, and their processors."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers.processors import TemplateProcessing
from transformers import (
    BertConfig,
    DepthAnythingConfig,
    DepthAnythingForDepthEstimation,
    Dinov2Config,
    DPTImageProcessorPil,
    GroundingDinoConfig,
    GroundingDinoForObjectDetection,
    GroundingDinoImageProcessorPil,
    PreTrainedTokenizerFast,
    SwinConfig,
)

from pipelines.pretrain.vlm_model import build_tokenizer


def save_tiny_grounding_dino(folder: Path) -> Path:
    """Writes a GroundingDINO with 12 queries, its tokenizer and its image processor."""
    torch.manual_seed(0)
    words = build_tokenizer().backend_tokenizer
    words.add_special_tokens(["[CLS]", "[SEP]", "[PAD]"])
    marks = {mark: words.token_to_id(mark) for mark in ("[CLS]", "[SEP]", "[PAD]")}
    words.post_processor = TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=list(marks.items())[:2])
    PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]", model_max_length=64
    ).save_pretrained(folder)
    config = GroundingDinoConfig(
        backbone_config=SwinConfig(
            image_size=64, patch_size=4, embed_dim=16, depths=[1, 1, 1, 1], num_heads=[1, 1, 2, 2], window_size=2,
            out_features=["stage2", "stage3", "stage4"],
        ),
        text_config=BertConfig(
            vocab_size=len(words.get_vocab()) + 8, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
            intermediate_size=24, max_position_embeddings=64,
        ),
        d_model=32, encoder_layers=1, decoder_layers=2, encoder_ffn_dim=24, decoder_ffn_dim=24,
        encoder_attention_heads=2, decoder_attention_heads=2, num_queries=12, max_text_len=64,
        disable_custom_kernels=True,
    )  # fmt: skip
    GroundingDinoForObjectDetection(config).save_pretrained(folder)
    GroundingDinoImageProcessorPil(size={"shortest_edge": 128, "longest_edge": 128}).save_pretrained(folder)
    return folder


def save_tiny_depth_anything(folder: Path) -> Path:
    """Writes a Depth-Anything on a small DINOv2, and its image processor: 28 x 28 pixels."""
    torch.manual_seed(0)
    backbone = Dinov2Config(
        hidden_size=16, num_hidden_layers=4, num_attention_heads=2, image_size=28, patch_size=14, mlp_ratio=2,
        out_features=["stage1", "stage2", "stage3", "stage4"], reshape_hidden_states=False, apply_layernorm=True,
    )  # fmt: skip
    config = DepthAnythingConfig(
        backbone_config=backbone, patch_size=14, reassemble_hidden_size=16, neck_hidden_sizes=[8, 8, 8, 8],
        fusion_hidden_size=8, head_hidden_size=8,
    )  # fmt: skip
    DepthAnythingForDepthEstimation(config).save_pretrained(folder)
    DPTImageProcessorPil(size={"height": 28, "width": 28}, ensure_multiple_of=14).save_pretrained(folder)
    return folder

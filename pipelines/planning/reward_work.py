"""Counts what scoring and training do with SpatialScore, at full size on the meta device."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import nn
from transformers.models.qwen2_5_vl.configuration_qwen2_5_vl import Qwen2_5_VLTextConfig, Qwen2_5_VLVisionConfig
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import (
    Qwen2_5_VisionTransformerPretrainedModel,
    Qwen2_5_VLTextModel,
)

from actors.dtypes import DTYPES
from actors.spatialscore.config import SpatialScoreConfig
from actors.spatialscore.vision_attention import use_equal_windows
from conf.reward import SpatialScoreSettings
from pipelines.planning.architectures import ScoreArchitecture
from pipelines.planning.ops import meta_device, trace
from pipelines.planning.work import NOTHING, Program, Work, blocks, of_depth

ROWS = 8
"""Rows of the recordings of the language model. What any other number costs follows."""
TEXT_TOKENS = 144
"""Text tokens of a row: the instruction and a prompt of about a hundred words."""


@dataclass(frozen=True)
class ScoreWork:
    """What one SpatialScore costs. Programs take rows: an image under a prompt."""

    scoring: Program
    """Forward pass of vision tower and language model."""
    training: Program
    """The same, and the backward pass of the language model; with checkpointing if the settings say so."""
    parameters: float
    """Of the frozen backbone, without its output layer."""
    useful: Program
    """`training` without what is recomputed: what the MFU counts."""
    image_tokens: int
    lora_parameters: float
    kept_bytes: float
    """Activations for the backward pass, a row."""
    backward_bytes: float
    """Temporary storage of the backward pass beside them, a row."""
    scoring_bytes: float
    """Largest storage of a forward pass, a row."""


class _Language(nn.Module):
    """The language model under the name that `SpatialScoreConfig.lora_targets` expects."""

    def __init__(self, config: Qwen2_5_VLTextConfig) -> None:
        super().__init__()
        self.language_model = Qwen2_5_VLTextModel(config)


def count_score(architecture: ScoreArchitecture, settings: SpatialScoreSettings) -> ScoreWork:
    """Records SpatialScore."""
    text, dtype = dict(architecture.text), DTYPES[settings.dtype]
    depth = int(text["num_hidden_layers"])
    models = [_language(text, layers, settings, dtype) for layers in (1, 2)]
    tokens = image_tokens(settings, architecture.vision) + TEXT_TOKENS

    def forward(model: _Language) -> torch.Tensor:
        hidden = torch.empty(ROWS, tokens, text["hidden_size"], dtype=dtype, device="meta")
        positions = torch.empty(3, ROWS, tokens, dtype=torch.long, device="meta")
        return model.language_model(inputs_embeds=hidden, position_ids=positions, use_cache=False).last_hidden_state

    scored = trace(partial(forward, models[0]), backward=False)
    trained = [trace(partial(forward, model), backward=True) for model in models]
    score = [Work.of(each, ROWS, forward=True) for each in trained]
    train = [Work.of(each, ROWS) for each in trained]
    vision, vision_parameters, vision_peak = _vision(architecture.vision, settings, dtype)
    useful = vision + of_depth(train[0], train[1:], [depth])
    again = blocks(score[0], score[1], depth) if settings.gradient_checkpointing else NOTHING
    layer = trained[1].kept - trained[0].kept
    kept = trained[0].kept - layer
    if settings.gradient_checkpointing:
        kept += depth * float(ROWS * tokens * text["hidden_size"] * dtype.itemsize) + layer
    else:
        kept += depth * layer
    trainable = [sum(p.numel() for p in model.parameters() if p.requires_grad) for model in models]
    frozen = [sum(p.numel() for p in model.parameters()) - lora for model, lora in zip(models, trainable, strict=True)]
    return ScoreWork(
        scoring=vision + of_depth(score[0], score[1:], [depth]),
        training=useful + again,
        useful=useful,
        image_tokens=image_tokens(settings, architecture.vision),
        parameters=frozen[0] + (depth - 1) * (frozen[1] - frozen[0]) + vision_parameters,
        lora_parameters=trainable[0] + (depth - 1) * (trainable[1] - trainable[0]),
        kept_bytes=kept / ROWS,
        backward_bytes=max(each.peak - each.kept for each in trained) / ROWS,
        scoring_bytes=max(scored.peak / ROWS, vision_peak),
    )


def _language(text: Mapping[str, Any], layers: int, settings: SpatialScoreSettings, dtype: torch.dtype) -> _Language:
    with meta_device(dtype):
        fields: dict[str, Any] = {
            **text,
            "num_hidden_layers": layers,
            "layer_types": None,
            "attn_implementation": "sdpa",
        }
        config = Qwen2_5_VLTextConfig(**fields)
        model = _Language(config)
    model.requires_grad_(False)
    targets = SpatialScoreConfig("", 0).lora_targets
    lora = LoraConfig(r=settings.lora_rank, lora_alpha=settings.lora_alpha, target_modules=rf".*{targets}")
    inject_adapter_in_model(lora, model)
    return model


def image_tokens(settings: SpatialScoreSettings, vision: Mapping[str, Any]) -> int:
    """Tokens of an image in the language model."""
    return round(settings.pixels / (vision["patch_size"] * vision["spatial_merge_size"]) ** 2)


def _vision(
    vision: Mapping[str, Any], settings: SpatialScoreSettings, dtype: torch.dtype
) -> tuple[Program, float, float]:
    """The vision tower for one image a row: program, parameters, and its largest storage for one image."""
    fields: dict[str, Any] = {**vision, "depth": 1, "attn_implementation": "sdpa"}
    config: Any = Qwen2_5_VLVisionConfig(**fields)
    with meta_device(dtype):
        tower = Qwen2_5_VisionTransformerPretrainedModel(config).requires_grad_(False)
    use_equal_windows(tower)
    patches = image_tokens(settings, vision) * config.spatial_merge_size**2
    window = (config.window_size // config.patch_size) ** 2
    whole = torch.tensor([0, patches])
    windows = torch.tensor([*range(0, patches, window), patches])
    values = config.in_channels * config.temporal_patch_size * config.patch_size**2
    angles = config.hidden_size // config.num_heads

    def block(lengths: torch.Tensor) -> torch.Tensor:
        hidden = torch.empty(patches, config.hidden_size, dtype=dtype, device="meta")
        cos, sin = (torch.empty(patches, angles, dtype=torch.float32, device="meta") for _ in range(2))
        return tower.blocks[0](hidden, cu_seqlens=lengths, position_embeddings=(cos, sin))

    def ends() -> torch.Tensor:
        hidden = tower.patch_embed(torch.empty(patches, values, device="meta"))
        return tower.merger(hidden)

    full = len(vision["fullatt_block_indexes"])
    parts = [trace(lambda: block(windows), False), trace(lambda: block(whole), False), trace(ends, False)]
    counts = (float(vision["depth"] - full), float(full), 1.0)
    works = [(count, Work.of(part, 1)) for count, part in zip(counts, parts, strict=True)]
    block_parameters = sum(p.numel() for p in tower.blocks[0].parameters())
    parameters = sum(p.numel() for p in tower.parameters()) + (vision["depth"] - 1) * block_parameters
    return Program(tuple(works)), parameters, max(part.peak for part in parts)

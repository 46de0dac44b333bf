"""ImageReward: BLIP (a ViT-L/16 and a BERT that attends to it) and an MLP on `[CLS]`. It reads 35 tokens."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from transformers import AutoTokenizer, BlipConfig, BlipVisionModel, CLIPImageProcessorPil
from transformers.models.blip.modeling_blip_text import BlipTextModel

from actors.rewards.batched import BatchedReward
from actors.rewards.clip_input import cropped
from actors.rewards.scorers import SCORERS, ScorerContext, commit_of, download

FILE = SCORERS["imagereward"].file
TOKENIZER = SCORERS["imagereward"].beside[0]
TOKENS = 35
MEAN, STD = 0.16717362830052426, 1.0333394966054072  # of its raw output; the published score is normalized with them
_VISION = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 224,
    "patch_size": 16,
    "layer_norm_eps": 1e-6,
}
_TEXT = {"vocab_size": 30524, "encoder_hidden_size": 1024, "num_attention_heads": 12, "hidden_act": "gelu"}


class ImageReward(nn.Module):
    """The published model, built from classes of transformers."""

    def __init__(self, config: BlipConfig) -> None:
        super().__init__()
        vision, text = cast(Any, config.vision_config), cast(Any, config.text_config)
        self.vision = BlipVisionModel(vision)
        self.text = BlipTextModel(text, add_pooling_layer=False)
        widths = (text.hidden_size, 1024, 128, 64, 16, 1)
        self.mlp = nn.ModuleList([nn.Linear(*pair) for pair in pairwise(widths)])

    def forward(self, ids: Tensor, mask: Tensor, pixels: Tensor) -> Tensor:
        """Returns the normalized score of each row  # [B]. ids, mask [B, L]; pixels [B, 3, H, W]."""
        image = self.vision(pixel_values=pixels).last_hidden_state
        output = self.text(input_ids=ids, attention_mask=mask, encoder_hidden_states=image, is_decoder=False)
        value = output.last_hidden_state[:, 0].float()
        for layer in self.mlp:  # the published MLP has no activations
            value = layer(value)
        return (value[:, 0] - MEAN) / STD


class ImageRewardScorer(BatchedReward):
    """Scores images under prompts with ImageReward."""

    def __init__(self, model: ImageReward, tokenizer: str, device: str, batch_images: int = 16) -> None:
        self._model, self._device, self.batch_images = model.to(device).eval(), device, batch_images
        self._tokenizer = AutoTokenizer.from_pretrained(
            tokenizer, revision=commit_of(tokenizer), trust_remote_code=False
        )
        self._side = cast(int, model.vision.config.image_size)
        self._images = CLIPImageProcessorPil(do_resize=False, do_center_crop=False)

    @torch.inference_mode()
    def score_batch(self, images: Sequence[np.ndarray], prompts: Sequence[str]) -> np.ndarray:
        """See BatchedReward. A prompt longer than 35 tokens is truncated."""
        rows = self._tokenizer(list(prompts), padding=True, truncation=True, max_length=TOKENS, return_tensors="pt").to(
            self._device
        )
        squares = [cropped(Image.fromarray(image), self._side) for image in images]
        pixels = self._images(squares, return_tensors="pt").to(self._device)
        values = self._model(rows["input_ids"], rows["attention_mask"], pixels["pixel_values"])
        return values.cpu().numpy()

    def truncated(self, prompts: Sequence[str]) -> np.ndarray:
        """See BatchedReward."""
        return np.array([len(ids) > TOKENS for ids in self._tokenizer(list(prompts))["input_ids"]], bool)


def open_image_reward(context: ScorerContext) -> ImageRewardScorer:
    """Opens ImageReward from a directory that also holds a BlipConfig and the tokenizer, or from the hub."""
    local = Path(context.model).is_dir()
    file = str(Path(context.model) / FILE) if local else download(context, FILE)
    config = (
        BlipConfig.from_pretrained(context.model) if local else BlipConfig(text_config=_TEXT, vision_config=_VISION)
    )
    model = ImageReward(config)
    model.load_state_dict(from_published(torch.load(file, map_location="cpu", weights_only=True)))
    tokenizer = context.model if local else TOKENIZER
    return ImageRewardScorer(model, tokenizer, context.device, context.batch_images)


_RENAMED = (
    (r"^blip\.visual_encoder\.cls_token$", "vision.embeddings.class_embedding"),
    (r"^blip\.visual_encoder\.pos_embed$", "vision.embeddings.position_embedding"),
    (r"^blip\.visual_encoder\.patch_embed\.proj\.", "vision.embeddings.patch_embedding."),
    (r"^blip\.visual_encoder\.norm\.", "vision.post_layernorm."),
    (r"^blip\.visual_encoder\.blocks\.", "vision.encoder.layers."),
    (r"^blip\.text_encoder\.", "text."),
    (r"\.norm([12])\.", r".layer_norm\1."),
    (r"\.attn\.qkv\.", ".self_attn.qkv."),
    (r"\.attn\.proj\.", ".self_attn.projection."),
    (r"^mlp\.layers\.(\d+)\.", lambda match: f"mlp.{(0, 2, 4, 6, 7).index(int(match[1]))}."),
)
_UNUSED = ("blip.vision_proj.", "blip.text_proj.", "blip.text_encoder.embeddings.position_ids")


def from_published(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Renames published weights to the names of `ImageReward`. Leaves out weights that scores do not need."""
    renamed: dict[str, Tensor] = {}
    for source, value in state.items():
        name = source
        if name.startswith(_UNUSED):
            continue
        for pattern, replacement in _RENAMED:
            name = re.sub(pattern, replacement, name)
        renamed[name] = value
    return renamed

"""PickScore and HPSv2.1: CLIP ViT-H-14, the cosine of image and text. Their text ends after 77 tokens."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from huggingface_hub import hf_hub_download
from PIL import Image
from torch import Tensor, nn
from transformers import AutoTokenizer, CLIPConfig, CLIPImageProcessorPil, CLIPModel

from pipelines.reward.baselines.registry import ScorerContext
from pipelines.reward.predictions import ImageScores, PairJudge, ScoringJudge

PROCESSOR = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"  # tokenizer, image processor and shape of both
HPSV2_FILE = "HPS_v2.1_compressed.pt"


class ClipScorer:
    """logit scale x cosine(image, text)."""

    def __init__(self, model: CLIPModel, processor: str, device: str) -> None:
        self._model: Any = cast(nn.Module, model).to(device).eval()
        self._device = device
        self._tokenizer = AutoTokenizer.from_pretrained(processor)
        self._images = CLIPImageProcessorPil.from_pretrained(processor)
        self._length = self._model.config.text_config.max_position_embeddings

    @torch.inference_mode()
    def score(self, images: Sequence[np.ndarray], prompts: Sequence[str]) -> ImageScores:
        """Scores image i under prompt i; a prompt beyond the model's positions is cut, and said to be."""
        whole = [len(ids) for ids in self._tokenizer(list(prompts))["input_ids"]]
        tokens = self._tokenizer(
            list(prompts), padding=True, truncation=True, max_length=self._length, return_tensors="pt"
        ).to(self._device)
        pixels = self._images([Image.fromarray(image) for image in images], return_tensors="pt").to(self._device)
        made = self._model(**tokens, pixel_values=pixels["pixel_values"])
        cosine = (made.image_embeds * made.text_embeds).sum(-1)  # both of length 1
        values = (self._model.logit_scale.exp() * cosine).float().cpu().numpy()
        return ImageScores(values, np.array(whole) > self._length)


def open_pickscore(place: ScorerContext) -> PairJudge:
    """PickScore from a directory or hub id in transformers form."""
    processor = place.model if Path(place.model).is_dir() else PROCESSOR
    model = CLIPModel.from_pretrained(place.model)
    return ScoringJudge(ClipScorer(model, processor, place.device), place.batch_images)


def open_hpsv2(place: ScorerContext) -> PairJudge:
    """HPSv2.1 from its OpenCLIP checkpoint: in a directory beside a CLIP in transformers form, or on the hub."""
    local = Path(place.model).is_dir()
    file = str(Path(place.model) / HPSV2_FILE) if local else hf_hub_download(place.model, HPSV2_FILE)
    base = place.model if local else PROCESSOR
    model = CLIPModel(CLIPConfig.from_pretrained(base))
    checkpoint = torch.load(file, map_location="cpu", weights_only=True)
    missing, unknown = model.load_state_dict(from_open_clip(checkpoint["state_dict"]), strict=False)
    if unknown or [name for name in missing if not name.endswith("position_ids")]:
        raise ValueError(f"{file} does not fit {base}: it lacks {missing[:3]} and holds unknown {unknown[:3]}")
    return ScoringJudge(ClipScorer(model, base, place.device), place.batch_images)


_RENAMED = (
    (r"^visual\.conv1\.", "vision_model.embeddings.patch_embedding."),
    (r"^visual\.class_embedding$", "vision_model.embeddings.class_embedding"),
    (r"^visual\.positional_embedding$", "vision_model.embeddings.position_embedding.weight"),
    (r"^visual\.ln_pre\.", "vision_model.pre_layrnorm."),
    (r"^visual\.ln_post\.", "vision_model.post_layernorm."),
    (r"^visual\.transformer\.resblocks\.", "vision_model.encoder.layers."),
    (r"^token_embedding\.", "text_model.embeddings.token_embedding."),
    (r"^positional_embedding$", "text_model.embeddings.position_embedding.weight"),
    (r"^ln_final\.", "text_model.final_layer_norm."),
    (r"^transformer\.resblocks\.", "text_model.encoder.layers."),
    (r"\.ln_1\.", ".layer_norm1."),
    (r"\.ln_2\.", ".layer_norm2."),
    (r"\.attn\.out_proj\.", ".self_attn.out_proj."),
    (r"\.mlp\.c_fc\.", ".mlp.fc1."),
    (r"\.mlp\.c_proj\.", ".mlp.fc2."),
)


def from_open_clip(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """OpenCLIP's names for a CLIP -> transformers'. Projections are transposed, joint q, k, v are taken apart."""
    found: dict[str, Tensor] = {}
    for name, value in state.items():
        if name in ("visual.proj", "text_projection"):
            found["visual_projection.weight" if "visual" in name else "text_projection.weight"] = value.T.contiguous()
            continue
        for pattern, replacement in _RENAMED:
            name = re.sub(pattern, replacement, name)
        if joint := re.match(r"(.*)\.attn\.in_proj_(weight|bias)$", name):
            for part, rows in zip("qkv", value.chunk(3), strict=True):
                found[f"{joint[1]}.self_attn.{part}_proj.{joint[2]}"] = rows
        elif name != "attn_mask":
            found[name] = value
    return found

"""CLIP score, PickScore and HPSv2.1: the cosine of image and text in a CLIP. They read 77 tokens of a prompt."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from transformers import AutoTokenizer, CLIPConfig, CLIPImageProcessorPil, CLIPModel

from actors.rewards.batched import BatchedReward
from actors.rewards.clip_input import cleaned, cropped, letterboxed
from actors.rewards.scorers import SCORERS, ScorerContext, commit_of, download

PROCESSOR = SCORERS["hpsv2"].beside[0]
"""Tokenizer, image processor and configuration of PickScore and HPSv2.1."""
HPSV2_FILE = SCORERS["hpsv2"].file
PREFIX = "A photo depicts "  # of the text of CLIP score


class ClipScorer(BatchedReward):
    """Scores by scale x cosine(image, text). PickScore, with the model's own scale."""

    def __init__(
        self,
        model: CLIPModel,
        processor: str,
        device: str,
        batch_images: int = 16,
        scale: float | None = None,
        revision: str = "main",
    ) -> None:
        """`processor`: folder or hub id of tokenizer and image processor, `revision`: its commit.

        `scale`: None means the model's own, which it was trained with.
        """
        self.batch_images = batch_images
        self._scale = model.logit_scale.exp().item() if scale is None else scale
        self._model: Any = cast(nn.Module, model).to(device).eval()
        self._device = device
        self._tokenizer = AutoTokenizer.from_pretrained(processor, revision=revision, trust_remote_code=False)
        self._images = CLIPImageProcessorPil.from_pretrained(processor, revision=revision)
        self._length = self._model.config.text_config.max_position_embeddings
        self._side: int = self._model.config.vision_config.image_size

    @torch.inference_mode()
    def score_batch(self, images: Sequence[np.ndarray], prompts: Sequence[str]) -> np.ndarray:
        """See BatchedReward. A prompt longer than the model's positions is truncated."""
        texts = [self._text(prompt) for prompt in prompts]
        tokens = self._tokenizer(texts, padding=True, truncation=True, max_length=self._length, return_tensors="pt").to(
            self._device
        )
        output = self._model(**tokens, pixel_values=self._pixels(images).to(self._device))
        cosine = (output.image_embeds * output.text_embeds).sum(-1)  # both have norm 1
        return (self._scale * cosine).float().cpu().numpy()

    def truncated(self, prompts: Sequence[str]) -> np.ndarray:
        """See BatchedReward."""
        texts = [self._text(prompt) for prompt in prompts]
        return np.array([len(ids) > self._length for ids in self._tokenizer(texts)["input_ids"]], bool)

    def _text(self, prompt: str) -> str:
        """What the model reads of a prompt."""
        return prompt

    def _pixels(self, images: Sequence[np.ndarray]) -> Tensor:
        """Normalized squares  # [B, 3, side, side]. The longer side of an image is cropped."""
        return self._images([Image.fromarray(image) for image in images], return_tensors="pt")["pixel_values"]


class ClipScore(ClipScorer):
    """CLIP score: 2.5 x max(cosine, 0) with the text "A photo depicts ...". Hessel et al., arXiv 2104.08718."""

    def score_batch(self, images: Sequence[np.ndarray], prompts: Sequence[str]) -> np.ndarray:
        """See BatchedReward. A prompt longer than the model's positions is truncated."""
        return np.maximum(super().score_batch(images, prompts), 0)

    def _text(self, prompt: str) -> str:
        return PREFIX + cleaned(prompt)

    def _pixels(self, images: Sequence[np.ndarray]) -> Tensor:
        squares = [cropped(Image.fromarray(image), self._side) for image in images]
        return self._images(squares, return_tensors="pt")["pixel_values"]


class HpsScorer(ClipScorer):
    """HPSv2.1: the cosine, without the model's scale. It sees the whole of an image that is not square."""

    def _text(self, prompt: str) -> str:
        return cleaned(prompt)

    def _pixels(self, images: Sequence[np.ndarray]) -> Tensor:
        squares = torch.stack([letterboxed(image, self._side) for image in images])
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (self._images.image_mean, self._images.image_std))
        return (squares - mean) / std


def open_clip_score(context: ScorerContext) -> ClipScorer:
    """Opens CLIP score, 2.5 x max(cosine, 0) (arXiv 2104.08718), from a directory or hub id of a CLIP."""
    model = CLIPModel.from_pretrained(context.model, revision=context.commit)
    return ClipScore(model, context.model, context.device, context.batch_images, scale=2.5, revision=context.commit)


def open_pickscore(context: ScorerContext) -> ClipScorer:
    """Opens PickScore from a directory or hub id in transformers format."""
    processor = context.model if Path(context.model).is_dir() else PROCESSOR
    model = CLIPModel.from_pretrained(context.model, revision=context.commit)
    return ClipScorer(model, processor, context.device, context.batch_images, revision=commit_of(processor))


def open_hpsv2(context: ScorerContext) -> ClipScorer:
    """Opens HPSv2.1 from its OpenCLIP checkpoint, in a directory that also holds a CLIP, or on the hub.

    Raises ValueError if the checkpoint does not fit the CLIP.
    """
    local = Path(context.model).is_dir()
    file = str(Path(context.model) / HPSV2_FILE) if local else download(context, HPSV2_FILE)
    base = context.model if local else PROCESSOR
    model = CLIPModel(CLIPConfig.from_pretrained(base, revision=commit_of(base)))
    checkpoint = torch.load(file, map_location="cpu", weights_only=True)
    missing, unknown = model.load_state_dict(from_open_clip(checkpoint["state_dict"]), strict=False)
    if unknown or [name for name in missing if not name.endswith("position_ids")]:
        raise ValueError(f"{file} does not fit {base}: it lacks {missing[:3]} and has unknown weights {unknown[:3]}")
    return HpsScorer(model, base, context.device, context.batch_images, scale=1.0, revision=commit_of(base))


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
    """Translates OpenCLIP's weights of a CLIP to transformers'. Transposes projections, and splits joint q, k, v."""
    converted: dict[str, Tensor] = {}
    for source, value in state.items():
        name = source
        if name in ("visual.proj", "text_projection"):
            target = "visual_projection.weight" if "visual" in name else "text_projection.weight"
            converted[target] = value.T.contiguous()
            continue
        for pattern, replacement in _RENAMED:
            name = re.sub(pattern, replacement, name)
        if joint := re.match(r"(.*)\.attn\.in_proj_(weight|bias)$", name):
            for part, rows in zip("qkv", value.chunk(3), strict=True):
                converted[f"{joint[1]}.self_attn.{part}_proj.{joint[2]}"] = rows
        elif name != "attn_mask":
            converted[name] = value
    return converted

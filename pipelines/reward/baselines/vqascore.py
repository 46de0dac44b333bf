"""VQAScore: the probability with which CLIP-FlanT5 answers "Yes" when asked whether the image shows the prompt."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from transformers import AutoTokenizer, CLIPImageProcessorPil, CLIPVisionModel, T5Config, T5ForConditionalGeneration

from pipelines.reward.baselines.registry import ScorerContext
from pipelines.reward.predictions import ImageScores, PairJudge, ScoringJudge

TOKENIZER = "google/flan-t5-xxl"
TOWER = "openai/clip-vit-large-patch14-336"  # frozen while CLIP-FlanT5 was trained
LAYER = -2  # of the tower's hidden states
_BEFORE = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, "
    "and polite answers to the user's questions. USER: "
)
_AFTER = '\nDoes this figure show "{prompt}"? Please answer yes or no. ASSISTANT: '


class ClipFlanT5(T5ForConditionalGeneration):
    """FlanT5 with the projector of image features, under the names that the weights are published with."""

    def __init__(self, config: T5Config) -> None:
        super().__init__(config)
        seen, width = cast(Any, config).mm_hidden_size, cast(int, config.d_model)
        self.mm_projector = nn.Sequential(nn.Linear(seen, width), nn.GELU(), nn.Linear(width, width))


class VqaScorer:
    """P("Yes") on images and prompts. It reads a prompt to its end."""

    def __init__(self, model: ClipFlanT5, tower: CLIPVisionModel, tokenizer: str, processor: str, device: str) -> None:
        """`tokenizer`, `processor`: directory or hub id of the text's and the image's."""
        self._model: Any = cast(nn.Module, model).to(device).eval()
        self._tower: Any = cast(nn.Module, tower).to(device).eval()
        self._device = device
        self._tokenizer = AutoTokenizer.from_pretrained(tokenizer)
        self._images = CLIPImageProcessorPil.from_pretrained(processor)

    @torch.inference_mode()
    def score(self, images: Sequence[np.ndarray], prompts: Sequence[str]) -> ImageScores:
        """Scores image i under prompt i: the geometric mean over the answer's tokens, as published."""
        squares = [self._square(image) for image in images]
        pixels = self._images(squares, return_tensors="pt")["pixel_values"].to(self._device, self._tower.dtype)
        features = self._tower(pixel_values=pixels, output_hidden_states=True).hidden_states[LAYER][:, 1:]
        features = self._model.mm_projector(features.to(self._model.dtype))  # [B, patches, D]
        rows = [self._row(prompt, seen) for prompt, seen in zip(prompts, features, strict=True)]
        embeddings = nn.utils.rnn.pad_sequence(rows, batch_first=True)
        lengths = torch.tensor([len(row) for row in rows], device=self._device)
        mask = torch.arange(embeddings.shape[1], device=self._device) < lengths[:, None]
        answer = self._ids("Yes").expand(len(rows), -1)
        logits = self._model(inputs_embeds=embeddings, attention_mask=mask.long(), labels=answer).logits
        loss = F.cross_entropy(logits.float().transpose(1, 2), answer, reduction="none").mean(1)  # [B]
        return ImageScores((-loss).exp().cpu().numpy(), np.zeros(len(prompts), bool))

    def _row(self, prompt: str, seen: Tensor) -> Tensor:
        """Embeddings [L, D]: the question with the image in the middle. Both texts end in </s>, as in training."""
        embed = self._model.get_input_embeddings()
        return torch.cat([embed(self._ids(_BEFORE)), seen, embed(self._ids(_AFTER.format(prompt=prompt)))])

    def _ids(self, text: str) -> Tensor:
        return torch.tensor(self._tokenizer(text)["input_ids"], device=self._device)

    def _square(self, image: np.ndarray) -> Image.Image:
        """The image in the middle of a square of the processor's mean colour."""
        picture = Image.fromarray(image)
        side = max(picture.size)
        square = Image.new("RGB", (side, side), tuple(int(255 * mean) for mean in self._images.image_mean))
        square.paste(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
        return square


def open_vqascore(place: ScorerContext) -> PairJudge:
    """CLIP-FlanT5 from a directory that holds tokenizer, image processor and, in `tower`, the CLIP; or from the hub.

    Raises ValueError where the weights hold no projector.
    """
    local = Path(place.model).is_dir()
    tokenizer, tower = (place.model, str(Path(place.model) / "tower")) if local else (TOKENIZER, TOWER)
    dtype = torch.bfloat16 if place.device.startswith("cuda") else torch.float32
    loaded = cast(Any, ClipFlanT5).from_pretrained(place.model, dtype=dtype, output_loading_info=True)
    model, missing = loaded[0], loaded[1]["missing_keys"]
    if missing:
        raise ValueError(f"{place.model} does not hold a whole CLIP-FlanT5: it lacks {sorted(missing)[:3]}")
    clip = CLIPVisionModel.from_pretrained(tower, dtype=dtype)
    return ScoringJudge(VqaScorer(model, clip, tokenizer, tower, place.device), place.batch_images)

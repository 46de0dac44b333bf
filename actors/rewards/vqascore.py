"""VQAScore: the probability that CLIP-FlanT5 answers "Yes" to the question whether the image shows the prompt."""

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

from actors.rewards.batched import BatchedReward
from actors.rewards.scorers import SCORERS, ScorerContext, commit_of

TOKENIZER, TOWER = SCORERS["vqascore"].beside
"""The vision tower, which was frozen during the training of CLIP-FlanT5."""
LAYER = -2  # of the tower's hidden states, read as image features
BEFORE = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, "
    "and polite answers to the user's questions. USER: "
)
AFTER = '\nDoes this figure show "{prompt}"? Please answer yes or no. ASSISTANT: '


class ClipFlanT5(T5ForConditionalGeneration):
    """FlanT5 with the projector of image features. Parameter names are those of the published weights."""

    def __init__(self, config: T5Config) -> None:
        super().__init__(config)
        features, width = cast(Any, config).mm_hidden_size, config.d_model
        self.mm_projector = nn.Sequential(nn.Linear(features, width), nn.GELU(), nn.Linear(width, width))


class VqaScorer(BatchedReward):
    """Scores images under prompts by P("Yes"). Prompts are not truncated."""

    def __init__(
        self,
        model: ClipFlanT5,
        tower: CLIPVisionModel,
        tokenizer: str,
        processor: str,
        device: str,
        batch_images: int = 16,
    ) -> None:
        """`tokenizer`, `processor`: directory or hub id of the tokenizer and of the image processor."""
        self.batch_images = batch_images
        self._model: Any = cast(nn.Module, model).to(device).eval()
        self._tower: Any = cast(nn.Module, tower).to(device).eval()
        self._device = device
        self._tokenizer = AutoTokenizer.from_pretrained(
            tokenizer, revision=commit_of(tokenizer), trust_remote_code=False
        )
        self._images = CLIPImageProcessorPil.from_pretrained(processor, revision=commit_of(processor))

    @torch.inference_mode()
    def score_batch(self, images: Sequence[np.ndarray], prompts: Sequence[str]) -> np.ndarray:
        """See BatchedReward. The score is the geometric mean of the answer's token probabilities, as published."""
        squares = [self._square(image) for image in images]
        pixels = self._images(squares, return_tensors="pt")["pixel_values"].to(self._device, self._tower.dtype)
        features = self._tower(pixel_values=pixels, output_hidden_states=True).hidden_states[LAYER][:, 1:]
        features = self._model.mm_projector(features.to(self._model.dtype))  # [B, patches, D]
        rows = [self._embed(prompt, image) for prompt, image in zip(prompts, features, strict=True)]
        embeddings = nn.utils.rnn.pad_sequence(rows, batch_first=True)
        lengths = torch.tensor([len(row) for row in rows], device=self._device)
        mask = torch.arange(embeddings.shape[1], device=self._device) < lengths[:, None]
        answer = self._ids("Yes").repeat(len(rows), 1)  # two ids with the end; T5 needs them contiguous
        logits = self._model(inputs_embeds=embeddings, attention_mask=mask.long(), labels=answer).logits
        loss = F.cross_entropy(logits.float().transpose(1, 2), answer, reduction="none").mean(1)  # [B]
        return (-loss).exp().cpu().numpy()

    def _embed(self, prompt: str, image: Tensor) -> Tensor:
        """Embeddings [L, D] of the question around the image features. Both texts end in </s>, as in training."""
        embed = self._model.get_input_embeddings()
        return torch.cat([embed(self._ids(BEFORE)), image, embed(self._ids(AFTER.format(prompt=prompt)))])

    def _ids(self, text: str) -> Tensor:
        return torch.tensor(self._tokenizer(text)["input_ids"], device=self._device)

    def _square(self, image: np.ndarray) -> Image.Image:
        """Pads the image to a square with the processor's mean colour."""
        content = Image.fromarray(image)
        side = max(content.size)
        square = Image.new("RGB", (side, side), tuple(int(255 * mean) for mean in self._images.image_mean))
        square.paste(content, ((side - content.width) // 2, (side - content.height) // 2))
        return square


def open_vqascore(context: ScorerContext) -> VqaScorer:
    """Opens CLIP-FlanT5 from a directory with tokenizer, image processor and the CLIP in `tower`, or from the hub.

    Raises ValueError if the weights lack the projector.
    """
    local = Path(context.model).is_dir()
    tokenizer, tower = (context.model, str(Path(context.model) / "tower")) if local else (TOKENIZER, TOWER)
    dtype = torch.bfloat16 if context.device.startswith("cuda") else torch.float32
    loaded = cast(Any, ClipFlanT5).from_pretrained(
        context.model, dtype=dtype, output_loading_info=True, revision=context.commit
    )
    model, missing = loaded[0], loaded[1]["missing_keys"]
    if missing:
        raise ValueError(f"{context.model} is not a complete CLIP-FlanT5: it lacks {sorted(missing)[:3]}")
    clip = CLIPVisionModel.from_pretrained(tower, dtype=dtype, revision=commit_of(tower))
    return VqaScorer(model, clip, tokenizer, tower, context.device, context.batch_images)

"""UnifiedReward: a Qwen2.5-VL-7B that sees two images and says which is better. It is asked in both orders.

As a reward it compares the images of a group with each other: G (G - 1) questions for a group of G images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from PIL import Image
from torch import nn
from transformers import AutoTokenizer, Qwen2_5_VLForConditionalGeneration, Qwen2VLImageProcessorPil

from actors.reward_input import check_inputs
from actors.rewards.scorers import ScorerContext
from actors.types import Scores

QUESTION = (
    "You are given a text caption and two generated images based on that caption. Your task is to evaluate and compare "
    "these images based on two key criteria:\n1. Alignment with the Caption: Assess how well each image aligns with "
    "the provided caption. Consider the accuracy of depicted objects, their relationships, and attributes as described "
    "in the caption.\n2. Overall Image Quality: Examine the visual quality of each image, including clarity, detail "
    "preservation, color accuracy, and overall aesthetic appeal.\nCompare both images using the above criteria and "
    "select the one that better aligns with the caption while exhibiting superior visual quality.\nProvide a clear "
    'conclusion such as "Image 1 is better.", "Image 2 is better." and "Both images are equally good."\nYour task is '
    "provided as follows:\nText Caption: [{prompt}]"
)
"""The question that it was trained with, as its authors publish it for evaluation."""

ANSWERS = {"Image 1 is better": 1.0, "Image 2 is better": -1.0, "Both images are equally good": 0.0}
MAX_NEW_TOKENS = 512
_START = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
_END = "<|im_end|>\n<|im_start|>assistant\n"


@dataclass(frozen=True)
class Comparison:
    """A question: which of two images is better under a prompt."""

    first: np.ndarray  # uint8 [H, W, 3]
    second: np.ndarray
    prompt: str


class UnifiedReward:
    """Compares images of one prompt. It generates an answer to each question greedily."""

    def __init__(
        self,
        model: Qwen2_5_VLForConditionalGeneration,
        source: str,
        device: str,
        pairs: int,
        new_tokens: int,
        revision: str = "main",
    ) -> None:
        """`source`: folder or hub id of tokenizer and image processor, `revision`: its commit.

        `pairs`: questions of one forward pass.
        """
        self._model: Any = cast(nn.Module, model).to(device).eval()
        self._device = device
        self._tokenizer = AutoTokenizer.from_pretrained(source, revision=revision, trust_remote_code=False)
        self._images = Qwen2VLImageProcessorPil.from_pretrained(source, revision=revision)
        self._image_id = self._tokenizer.convert_tokens_to_ids("<|image_pad|>")
        self._pairs, self._new_tokens = pairs, new_tokens

    def score(self, images: np.ndarray | Sequence[np.ndarray], prompts: Sequence[str]) -> Scores:
        """Scores image i by its mean vote against every other image of the call under the same prompt, -1 to 1.

        The vote of a pair is that of both orders: 1 or -1 if they agree, 0 if they contradict each other. NaN for an
        image without another one of its prompt, or without any answer.
        """
        check_inputs(images, prompts)
        pairs = [
            (one, other)
            for one, prompt in enumerate(prompts)
            for other in range(len(prompts))
            if one != other and prompts[other] == prompt
        ]
        answers = self.compare([Comparison(images[one], images[other], prompts[one]) for one, other in pairs])
        votes = np.full((len(prompts), len(prompts)), np.nan)
        for (one, other), answer in zip(pairs, answers, strict=True):
            votes[one, other] = answer
        return Scores.deterministic(_mean_votes(votes).tolist())

    def compare(self, questions: Sequence[Comparison]) -> list[float]:
        """The answers: 1 for the first image, -1 for the second, 0 for neither, NaN for no clear answer."""
        answers: list[float] = []
        for start in range(0, len(questions), self._pairs):
            answers += [parse_answer(text) for text in self._generate(questions[start : start + self._pairs])]
        return answers

    @torch.inference_mode()
    def _generate(self, questions: Sequence[Comparison]) -> list[str]:
        images = [Image.fromarray(image) for question in questions for image in (question.first, question.second)]
        patches = self._images(images, return_tensors="pt").to(self._device)
        counts = (patches["image_grid_thw"].prod(1) // self._images.merge_size**2).view(-1, 2).tolist()
        texts = [
            _START
            + "".join(f"<|vision_start|>{'<|image_pad|>' * count}<|vision_end|>" for count in pair_counts)
            + QUESTION.format(prompt=question.prompt.replace("<|", "< |"))
            + _END
            for question, pair_counts in zip(questions, counts, strict=True)
        ]
        rows = self._tokenizer(texts, padding=True, padding_side="left", return_tensors="pt").to(self._device)
        generated = self._model.generate(
            input_ids=rows["input_ids"],
            attention_mask=rows["attention_mask"],
            pixel_values=patches["pixel_values"],
            image_grid_thw=patches["image_grid_thw"],
            mm_token_type_ids=(rows["input_ids"] == self._image_id).int(),
            do_sample=False,
            max_new_tokens=self._new_tokens,
        )
        return self._tokenizer.batch_decode(generated[:, rows["input_ids"].shape[1] :], skip_special_tokens=True)


def parse_answer(text: str) -> float:
    """1 for the first image, -1 for the second, 0 for neither; NaN unless the text contains exactly one of ANSWERS."""
    values = [value for words, value in ANSWERS.items() if words in text]
    return values[0] if len(values) == 1 else float("nan")


def _mean_votes(votes: np.ndarray) -> np.ndarray:
    """Means [B] of the votes of both orders. `votes` [B, B]: the answer with image i first and image j second."""
    both = (votes - votes.T) / 2
    counts = np.isfinite(both).sum(1)
    return np.where(counts > 0, np.nansum(both, 1) / np.maximum(counts, 1), np.nan)


def open_unified_reward(context: ScorerContext) -> UnifiedReward:
    """Opens UnifiedReward from a directory or hub id in transformers format."""
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(context.model, dtype="auto", revision=context.commit)
    pairs = max(1, context.batch_images // 2)
    return UnifiedReward(model, context.model, context.device, pairs, MAX_NEW_TOKENS, context.commit)

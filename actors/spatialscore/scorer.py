"""A trained SpatialScore as a reward: images and prompts in, scores out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from actors.reward_input import check_inputs
from actors.spatialscore.loading import load
from actors.spatialscore.model import SpatialScore
from actors.spatialscore.processor import Images, PilImages, ScoreBatch, as_arrays
from actors.types import Scores

_TEXT_TOKENS = 512
"""Tokens of text that each row of a full forward pass may have. Rows of longer prompts are scored fewer at a time."""


class SpatialScorer:
    """Scores images under prompts.

    scorer = SpatialScorer.from_pretrained("runs/scenes/reward/model")
    scores = scorer.score(images=images, prompts=["a red circle left of a blue square"] * len(images))
    """

    def __init__(self, model: SpatialScore, device: str = "cpu", batch_images: int = 48) -> None:
        """`batch_images`: images of one forward pass."""
        self.model = model.to(device).eval()
        self.batch_images = batch_images
        self._device = device

    @classmethod
    def from_pretrained(
        cls,
        path: Path | str,
        *,
        device: str = "cpu",
        threads: int | None = None,
        batch_images: int = 48,
        merge: bool = True,
    ) -> SpatialScorer:
        """Loads a directory that `SpatialScore.save_pretrained` wrote.

        `threads`: CPU threads of this process; None keeps torch's choice. `merge`: merge the LoRA into a float32
        backbone, which is faster and gives the same scores up to rounding. A bfloat16 backbone keeps its LoRA
        separate, as in training.
        """
        if threads is not None:
            torch.set_num_threads(threads)
        model = load(path, device=device)
        if merge and model.config.dtype == "float32":
            model.merge()
        return cls(model, device, batch_images)

    def check(self, prompt: str) -> None:
        """Raises InputError for a prompt that cannot be scored."""
        self.model.processor.template.encode(prompt)

    def score(self, images: Images | PilImages, prompts: Sequence[str]) -> Scores:
        """Scores image i under prompt i: mu, higher is better, and sigma  # [B], [B].

        `images`: uint8 [B, H, W, 3], or B images of any sizes: PIL images or arrays uint8 [H, W, 3]. The result depends
        neither on the batch size nor on the order, up to rounding. Raises the ValueErrors of `as_arrays` and
        `check_inputs`.
        """
        images = as_arrays(images)
        check_inputs(images, prompts)
        lengths = [len(self.model.processor.template.encode(prompt).after) for prompt in prompts]
        by_length = sorted(range(len(prompts)), key=lengths.__getitem__)  # similar lengths together: little padding
        mu, sigma = np.empty(len(prompts), np.float32), np.empty(len(prompts), np.float32)
        for chosen in self._batches(by_length, lengths):
            scores = self.score_batch(self.model.processor([images[i] for i in chosen], [prompts[i] for i in chosen]))
            mu[chosen], sigma[chosen] = scores.mu, scores.sigma
        return Scores(mu, sigma)

    @torch.inference_mode()
    def score_batch(self, batch: ScoreBatch) -> Scores:
        """Scores the rows of a batch that the model's processor made, in one forward pass."""
        mu, sigma = self.model(batch.to(self._device))
        return Scores(mu.cpu().numpy(), sigma.cpu().numpy())

    def _batches(self, by_length: Sequence[int], lengths: Sequence[int]) -> Iterator[list[int]]:
        """Cuts the rows, sorted by length, into forward passes whose size is bounded in images and in text."""
        chosen: list[int] = []
        for row in by_length:
            is_full = len(chosen) == self.batch_images
            if chosen and (is_full or (len(chosen) + 1) * lengths[row] > self.batch_images * _TEXT_TOKENS):
                yield chosen
                chosen = []
            chosen.append(row)
        if chosen:
            yield chosen

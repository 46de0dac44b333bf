"""The trained SpatialScore as a function: images and prompts in, scores out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from actors.spatialscore.model import SpatialScore, load
from actors.spatialscore.processor import Images
from actors.types import Scores


class SpatialScorer:
    """Scores images against prompts.

    scorer = SpatialScorer.from_pretrained("runs/scenes/reward/model")
    scores = scorer.score(images=images, prompts=["a red circle left of a blue square"] * len(images))
    """

    def __init__(self, model: SpatialScore, device: str = "cpu", batch_images: int = 48) -> None:
        self._model = model.to(device).eval()
        self._device = device
        self.batch_images = batch_images

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
        """Loads what `SpatialScore.save_pretrained` wrote.

        `threads`: CPU threads of this process, or torch's own choice. `merge`: fold the LoRA into a float32 backbone,
        which scores the same up to rounding and faster; a bfloat16 backbone keeps its LoRA apart, as in training.
        """
        if threads is not None:
            torch.set_num_threads(threads)
        model = load(path, device=device)
        if merge and model.config.dtype == "float32":
            model.merge()
        return cls(model, device, batch_images)

    def check(self, prompt: str) -> None:
        """Raises ValueError for a prompt that cannot be scored."""
        self._model.processor.template.encode(prompt)

    def score(self, *, images: Images, prompts: Sequence[str]) -> Scores:
        """Scores image i against prompt i: mu, higher is better, and its sigma.

        `images`: uint8 [B, H, W, 3], or uint8 [H, W, 3] arrays of any sizes. The result depends neither on the batch
        size nor on the order, up to rounding. Raises ValueError for other pixels, or numbers that do not match.
        """
        if len(images) != len(prompts):
            raise ValueError(f"every image needs its prompt, got {len(images)} images and {len(prompts)} prompts")
        order = sorted(range(len(prompts)), key=lambda i: len(self._model.processor.template.encode(prompts[i]).after))
        mu, sigma = np.empty(len(prompts), np.float32), np.empty(len(prompts), np.float32)
        for start in range(0, len(order), self.batch_images):
            chosen = order[start : start + self.batch_images]  # of similar length, so that little is padding
            batch = self._model.processor([images[i] for i in chosen], [prompts[i] for i in chosen])
            with torch.inference_mode():
                row_mu, row_sigma = self._model(batch.to(self._device))
            mu[chosen], sigma[chosen] = row_mu.cpu().numpy(), row_sigma.cpu().numpy()
        return Scores(mu, sigma)

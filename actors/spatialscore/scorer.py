"""A trained SpatialScore as a reward: images and prompts in, scores out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from actors.spatialscore.loading import load
from actors.spatialscore.model import SpatialScore
from actors.spatialscore.processor import Images
from actors.types import Scores


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
        """Raises ValueError for a prompt that cannot be scored."""
        self.model.processor.template.encode(prompt)

    def score(self, images: Images, prompts: Sequence[str]) -> Scores:
        """Scores image i under prompt i: mu, higher is better, and sigma  # [B], [B].

        `images`: uint8 [B, H, W, 3], or B arrays uint8 [H, W, 3] of any sizes. The result depends neither on the batch
        size nor on the order, up to rounding. Raises ValueError for other pixels, or if the numbers do not match.
        """
        if len(images) != len(prompts):
            raise ValueError(f"every image needs its prompt, got {len(images)} images and {len(prompts)} prompts")
        lengths = [len(self.model.processor.template.encode(prompt).after) for prompt in prompts]
        by_length = sorted(range(len(prompts)), key=lengths.__getitem__)  # similar lengths together: little padding
        mu, sigma = np.empty(len(prompts), np.float32), np.empty(len(prompts), np.float32)
        for start in range(0, len(by_length), self.batch_images):
            chosen = by_length[start : start + self.batch_images]
            batch = self.model.processor([images[i] for i in chosen], [prompts[i] for i in chosen])
            with torch.inference_mode():
                batch_mu, batch_sigma = self.model(batch.to(self._device))
            mu[chosen], sigma[chosen] = batch_mu.cpu().numpy(), batch_sigma.cpu().numpy()
        return Scores(mu, sigma)

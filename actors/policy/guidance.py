"""Classifier-free guidance: what the families share whose transformer predicts twice, with prompt and negative prompt.

Axes as in actors/policy/base.py. With guidance, a batch of B images has 2 B rows: first those with the prompts.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace

import torch

from actors.policy.base import ConditioningBatch, Policy
from actors.types import Conditioning
from conf.flux import FluxSettings


def guide(velocity: torch.Tensor, negative: torch.Tensor, scale: float) -> torch.Tensor:
    """Classifier-free guidance (Ho and Salimans, arXiv 2207.12598): negative + scale (velocity - negative)."""
    return negative + scale * (velocity - negative)


class GuidedPolicy(Policy):
    """A policy with `flux.true_cfg`. Both predictions of an image are rows of one forward pass."""

    _negative: Conditioning | None = None  # of the text to guide away from; made by the first `encode`

    # --- what a family defines --------------------------------------------------------------------------------------

    @abstractmethod
    def encode_text(self, text: str) -> Conditioning:
        """The Conditioning of one text, on the CPU, without that of the negative prompt."""

    @abstractmethod
    def predict(self, latents: torch.Tensor, s: torch.Tensor, rows: ConditioningBatch) -> torch.Tensor:
        """The transformer's velocity: latents [B', S, C] float32, s [B'] -> [B', S, C] float32."""

    def guide(self, velocity: torch.Tensor, negative: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
        """The guided velocity [B, S, C] at s [B], from those with the prompt and with the negative prompt."""
        return guide(velocity, negative, self.settings.true_cfg)

    @staticmethod
    def negative_prompt(settings: FluxSettings) -> str:
        """The text that the guidance leads away from."""
        return settings.negative_prompt

    # --- the guidance -----------------------------------------------------------------------------------------------

    @property
    def guided(self) -> bool:
        """Whether an image is two rows of a forward pass."""
        return self.settings.true_cfg > 1

    @torch.no_grad()
    def encode(self, texts: Sequence[str]) -> list[Conditioning]:
        """See Policy. The negative prompt is encoded once, and all texts share its tensors."""
        encoded = [self.encode_text(text) for text in texts]
        if not self.guided:
            return encoded
        if self._negative is None:
            self._negative = self.encode_text(self.negative_prompt(self.settings))
        negative = self._negative
        return [
            replace(row, negative_embeds=negative.prompt_embeds, negative_pooled=negative.pooled_embeds)
            for row in encoded
        ]

    def with_negatives(self, conditioning: Sequence[Conditioning]) -> list[Conditioning]:
        """The rows of a forward pass: the prompts and then, with guidance, the negative prompt of each of them."""
        if not self.guided:
            return list(conditioning)
        negatives: dict[int, Conditioning] = {}  # one object for each tensor, so that equal rows stay recognizable
        for row in conditioning:
            if row.negative_embeds is None:
                raise ValueError("guidance needs the negative prompt's embeddings: encode with flux.true_cfg above 1")
            negatives.setdefault(id(row.negative_embeds), Conditioning(row.negative_embeds, row.negative_pooled))
        return [*conditioning, *(negatives[id(row.negative_embeds)] for row in conditioning)]

    def velocity(self, latents: torch.Tensor, s: torch.Tensor, rows: ConditioningBatch) -> torch.Tensor:
        """See Policy."""
        if not self.guided:
            return self.predict(latents, s, rows)
        with_prompt, with_negative = self.predict(latents.repeat(2, 1, 1), s.repeat(2), rows).chunk(2)
        return self.guide(with_prompt, with_negative, s)

"""Stable Diffusion 3.5 as a policy: three text encoders, classifier-free guidance, unpacked latents.

Axes as in actors/policy/base.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from diffusers.pipelines.stable_diffusion_3.pipeline_stable_diffusion_3 import StableDiffusion3Pipeline

from actors.policy.base import stack_rows
from actors.policy.guidance import GuidedPolicy
from actors.policy.schedule import scheduler_sigmas
from actors.types import Conditioning
from conf.flux import FluxSettings

CLIP_TOKENS = 77
"""Tokens of CLIP in front of those of T5. CLIP's two encoders share them."""


@dataclass(frozen=True)
class Sd3Conditioning:
    """The conditioning of all rows of a batch. With guidance, B' = 2 B, else B' = B."""

    prompt_embeds: torch.Tensor  # [B', L, D], with L of CLIP and T5 together
    pooled_embeds: torch.Tensor  # [B', D'] of both CLIPs


class Sd3Policy(GuidedPolicy):
    """Stable Diffusion 3 and 3.5, medium and large. The turbo models are sampled with `flux.true_cfg=1`."""

    pipeline_class = StableDiffusion3Pipeline
    encoders = ("text_encoder", "text_encoder_2", "text_encoder_3")
    inference_only_components = (*encoders, "tokenizer", "tokenizer_2", "tokenizer_3", "vae")
    max_text_tokens = 512
    lacks = dict.fromkeys(("guidance", "cfg_norm_limit", "cfg_truncation"), "its guidance is flux.true_cfg")

    def __init__(self, pipeline: StableDiffusion3Pipeline, settings: FluxSettings, seed: int = 0) -> None:
        """See Policy."""
        super().__init__(pipeline, settings, seed)
        self.channels = self.transformer.config["in_channels"] * 4

    @staticmethod
    def pipeline_kwargs(settings: FluxSettings) -> dict[str, float | str]:
        """See Policy."""
        if settings.true_cfg > 1:
            return {"guidance_scale": settings.true_cfg, "negative_prompt": settings.negative_prompt}
        return {"guidance_scale": 1.0}

    @staticmethod
    def count_tokens(pipeline: StableDiffusion3Pipeline, text: str) -> int:
        """See Policy: the tokens of T5. CLIP reads the first 77 only, whatever the settings are."""
        return len(pipeline.tokenizer_3(text, verbose=False).input_ids)

    @staticmethod
    def text_tokens(settings: FluxSettings, tokens: int) -> int:
        """See Policy."""
        return CLIP_TOKENS + settings.max_sequence_length

    @staticmethod
    def noise_levels(scheduler: Any, steps: int, image_tokens: int) -> torch.Tensor:
        """See Policy. Its last level above 0 is below 0.01, so the last two denoise steps cannot remove noise."""
        return scheduler_sigmas(scheduler, steps, image_tokens)

    def encode_text(self, text: str) -> Conditioning:
        """See GuidedPolicy: the hidden states of both CLIPs and of T5, and the pooled outputs of both CLIPs."""
        embeds, _, pooled, _ = self.pipeline.encode_prompt(
            prompt=text,
            prompt_2=text,
            prompt_3=text,
            do_classifier_free_guidance=False,
            max_sequence_length=self.settings.max_sequence_length,
            device=self.pipeline.text_encoder.device,
        )
        return Conditioning(embeds[0].cpu(), pooled[0].cpu())

    def batch_conditioning(self, conditioning: Sequence[Conditioning]) -> Sd3Conditioning:
        """See Policy."""
        rows = self.with_negatives(conditioning)
        pooled = [cast(torch.Tensor, row.pooled_embeds) for row in rows]
        return Sd3Conditioning(
            stack_rows([row.prompt_embeds for row in rows], self.device), stack_rows(pooled, self.device)
        )

    def timestep(self, s: torch.Tensor) -> torch.Tensor:
        """See Policy. Unlike FLUX's, this pipeline passes the timestep in 0..1000 and does not round it."""
        return s * 1000

    def predict(self, latents: torch.Tensor, s: torch.Tensor, rows: Sd3Conditioning) -> torch.Tensor:
        """See GuidedPolicy."""
        velocity = self.transformer(
            hidden_states=self.unpack(latents).to(self.dtype),
            timestep=self.timestep(s),
            encoder_hidden_states=rows.prompt_embeds,
            pooled_projections=rows.pooled_embeds,
            return_dict=False,
        )[0]
        return self.pack(velocity.float())

    def decode_latents(self, latents: torch.Tensor) -> torch.Tensor:
        """See Policy."""
        vae = self.pipeline.vae
        scaled = self.unpack(latents) / vae.config.scaling_factor + vae.config.shift_factor
        return vae.decode(scaled, return_dict=False)[0]

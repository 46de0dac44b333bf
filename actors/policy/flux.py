"""FLUX as a policy: text to conditioning, latents to velocity, latents to pixels. Axes as in actors/policy/base.py."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from diffusers.pipelines.flux.pipeline_flux import FluxPipeline

from actors.policy.base import Policy, stack_rows
from actors.types import Conditioning
from conf.flux import FluxSettings


@dataclass(frozen=True)
class FluxConditioning:
    """The conditioning of all rows of a batch, stacked once and used at all denoise steps."""

    prompt_embeds: torch.Tensor  # [B, L, D]
    pooled_embeds: torch.Tensor  # [B, D']
    guidance: torch.Tensor | None  # [B]; None if the model has no guidance embedding


class FluxPolicy(Policy):
    """FLUX.1. Its guidance is an embedding, so each denoise step needs one forward pass."""

    pipeline_class = FluxPipeline
    encoders = ("text_encoder", "text_encoder_2")
    inference_only_components = (*encoders, "tokenizer", "tokenizer_2", "vae")
    max_text_tokens = 512
    lacks = dict.fromkeys(
        ("true_cfg", "negative_prompt", "cfg_norm_limit", "cfg_truncation"),
        "its guidance is flux.guidance, an embedding",
    )

    def __init__(self, pipeline: FluxPipeline, settings: FluxSettings, seed: int = 0) -> None:
        """See Policy."""
        super().__init__(pipeline, settings, seed)
        self.channels = self.transformer.x_embedder.in_features
        self._image_ids = self.pipeline._prepare_latent_image_ids(1, *self.grid, self.device, self.dtype)  # [S, 3]
        self._text_ids = torch.zeros(settings.max_sequence_length, 3, device=self.device, dtype=self.dtype)  # [L, 3]
        if pipeline.vae is not None:
            pipeline.vae.to(memory_format=torch.channels_last)  # halves the time of its convolutions

    @staticmethod
    def pipeline_kwargs(settings: FluxSettings) -> dict[str, float | str]:
        """See Policy."""
        return {"guidance_scale": settings.guidance}

    @staticmethod
    def count_tokens(pipeline: FluxPipeline, text: str) -> int:
        """See Policy: the tokens of T5. CLIP reads the first 77 only, whatever the settings are."""
        return len(pipeline.tokenizer_2(text, verbose=False).input_ids)

    @torch.no_grad()
    def encode(self, texts: Sequence[str]) -> list[Conditioning]:
        """See Policy: the hidden states of T5 and the pooled output of CLIP."""
        encoded = []
        for text in texts:
            embeds, pooled, _ = self.pipeline.encode_prompt(
                prompt=text,
                prompt_2=text,
                max_sequence_length=self.settings.max_sequence_length,
                device=self.pipeline.text_encoder_2.device,
            )
            encoded.append(Conditioning(cast(torch.Tensor, embeds)[0].cpu(), cast(torch.Tensor, pooled)[0].cpu()))
        return encoded

    def batch_conditioning(self, conditioning: Sequence[Conditioning]) -> FluxConditioning:
        """See Policy."""
        guidance = None
        if self.transformer.config["guidance_embeds"]:
            guidance = torch.full((len(conditioning),), self.settings.guidance, device=self.device)
        pooled = [cast(torch.Tensor, row.pooled_embeds) for row in conditioning]
        return FluxConditioning(
            stack_rows([row.prompt_embeds for row in conditioning], self.device),
            stack_rows(pooled, self.device),
            guidance,
        )

    def velocity(self, latents: torch.Tensor, s: torch.Tensor, rows: FluxConditioning) -> torch.Tensor:
        """See Policy."""
        return self.transformer(
            hidden_states=latents.to(self.dtype),
            encoder_hidden_states=rows.prompt_embeds,
            pooled_projections=rows.pooled_embeds,
            timestep=self.timestep(s),
            guidance=rows.guidance,
            img_ids=self._image_ids,
            txt_ids=self._text_ids,
            return_dict=False,
        )[0].float()

    def decode_latents(self, latents: torch.Tensor) -> torch.Tensor:
        """See Policy."""
        vae = self.pipeline.vae
        unpacked = self.unpack(latents)
        scaled = unpacked / vae.config.scaling_factor + vae.config.shift_factor
        return vae.decode(scaled, return_dict=False)[0]

"""FLUX.2-klein as a policy: three layers of Qwen3 as text, positions of four axes, normalized latents.

Axes as in actors/policy/base.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from diffusers.pipelines.flux2.pipeline_flux2_klein import Flux2KleinPipeline, compute_empirical_mu

from actors.policy.base import stack_rows
from actors.policy.chat import chat_tokens
from actors.policy.guidance import GuidedPolicy
from actors.policy.schedule import shifted_sigmas
from actors.types import Conditioning
from conf.errors import SettingsError
from conf.flux import FluxSettings


class Flux2KleinPolicy(GuidedPolicy):
    """FLUX.2-klein. The distilled models have no guidance, the base models have classifier-free guidance."""

    pipeline_class = Flux2KleinPipeline
    encoders = ("text_encoder",)
    inference_only_components = (*encoders, "tokenizer", "vae")
    max_text_tokens = 512
    lacks = dict.fromkeys(("guidance", "cfg_norm_limit", "cfg_truncation"), "its guidance is flux.true_cfg")

    def __init__(self, pipeline: Flux2KleinPipeline, settings: FluxSettings, seed: int = 0) -> None:
        """See Policy."""
        super().__init__(pipeline, settings, seed)
        self.channels = self.transformer.config["in_channels"]
        ids = self.pipeline._prepare_latent_ids(torch.empty(1, 1, *self.grid))  # [1, S, 4]
        self._image_ids = ids.to(self.device)
        ids = self.pipeline._prepare_text_ids(torch.empty(1, settings.max_sequence_length, 1))  # [1, L, 4]
        self._text_ids = ids.to(self.device)

    @classmethod
    def check_settings(cls, settings: FluxSettings, pipeline: Any) -> None:
        """See Policy."""
        super().check_settings(settings, pipeline)
        if settings.negative_prompt.strip():
            raise SettingsError(
                f"flux.negative_prompt must be blank for a Flux2KleinPipeline, got {settings.negative_prompt!r}: its "
                "guidance leads away from the empty text. Leave the setting out"
            )
        if settings.true_cfg > 1 and pipeline.config["is_distilled"]:
            raise SettingsError(
                f"flux.true_cfg must be 1 for a distilled FLUX.2-klein, got {settings.true_cfg}: it has no guidance. "
                "Train its base model, or set flux.true_cfg=1"
            )

    @staticmethod
    def pipeline_kwargs(settings: FluxSettings) -> dict[str, float | str]:
        """See Policy."""
        return {"guidance_scale": settings.true_cfg}

    @staticmethod
    def count_tokens(pipeline: Flux2KleinPipeline, text: str) -> int:
        """See Policy: with the tokens of the chat template."""
        return chat_tokens(pipeline.tokenizer, text, enable_thinking=False)

    @staticmethod
    def negative_prompt(settings: FluxSettings) -> str:
        """See GuidedPolicy."""
        return ""

    @staticmethod
    def noise_levels(scheduler: Any, steps: int, image_tokens: int) -> torch.Tensor:
        """See Policy. The shift is an empirical function of the image's size and the number of steps."""
        return shifted_sigmas(scheduler, steps, image_tokens, compute_empirical_mu(image_tokens, steps))

    def encode_text(self, text: str) -> Conditioning:
        """See GuidedPolicy: hidden states of three layers of Qwen3, side by side; padding included."""
        embeds, _ = self.pipeline.encode_prompt(
            prompt=text,
            max_sequence_length=self.settings.max_sequence_length,
            device=self.pipeline.text_encoder.device,
        )
        return Conditioning(embeds[0].cpu())  # [L, D]

    def batch_conditioning(self, conditioning: Sequence[Conditioning]) -> torch.Tensor:
        """See Policy. [B', L, D]."""
        return stack_rows([row.prompt_embeds for row in self.with_negatives(conditioning)], self.device)

    def predict(self, latents: torch.Tensor, s: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """See GuidedPolicy."""
        return self.transformer(
            hidden_states=latents.to(self.dtype),
            encoder_hidden_states=rows,
            timestep=self.timestep(s),
            img_ids=self._image_ids,
            txt_ids=self._text_ids,
            return_dict=False,
        )[0].float()

    def decode_latents(self, latents: torch.Tensor) -> torch.Tensor:
        """See Policy. The statistics of the VAE's batch norm, of packed channels, turn latents into the VAE's own."""
        vae = self.pipeline.vae
        std = torch.sqrt(vae.bn.running_var + vae.config.batch_norm_eps).to(latents)  # [C]
        unpacked = self.unpack(latents * std + vae.bn.running_mean.to(latents))
        return vae.decode(unpacked, return_dict=False)[0]

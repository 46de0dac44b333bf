"""Z-Image as a policy: a single-stream transformer of texts and images of any length, and its own guidance options.

Axes as in actors/policy/base.py.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from diffusers.pipelines.z_image.pipeline_z_image import ZImagePipeline

from actors.policy.chat import chat_tokens
from actors.policy.guidance import GuidedPolicy
from actors.types import Conditioning
from conf.flux import FluxSettings

TOKEN_MULTIPLE = 32
"""The transformer fills up each text to a multiple of this with a token of its own."""


class ZImagePolicy(GuidedPolicy):
    """Z-Image. Z-Image-Turbo is sampled with `flux.true_cfg=1` and nine denoise steps."""

    pipeline_class = ZImagePipeline
    encoders = ("text_encoder",)
    inference_only_components = (*encoders, "tokenizer", "vae")
    max_text_tokens = 512
    lacks = dict.fromkeys(("guidance",), "its guidance is flux.true_cfg")

    def __init__(self, pipeline: ZImagePipeline, settings: FluxSettings, seed: int = 0) -> None:
        """See Policy."""
        super().__init__(pipeline, settings, seed)
        self.channels = self.transformer.config["in_channels"] * 4

    @staticmethod
    def pipeline_kwargs(settings: FluxSettings) -> dict[str, float | str]:
        """See Policy. The pipeline adds `guidance_scale` times the difference to the velocity with the prompt."""
        if settings.true_cfg == 1:
            return {"guidance_scale": 0.0}
        return {
            "guidance_scale": settings.true_cfg - 1,
            "negative_prompt": settings.negative_prompt,
            "cfg_normalization": settings.cfg_norm_limit,
            "cfg_truncation": settings.cfg_truncation,
        }

    @staticmethod
    def count_tokens(pipeline: ZImagePipeline, text: str) -> int:
        """See Policy: with the tokens of the chat template."""
        return chat_tokens(pipeline.tokenizer, text, enable_thinking=True)

    @staticmethod
    def text_tokens(settings: FluxSettings, tokens: int) -> int:
        """See Policy: texts are not padded to the longest of the batch, but to the next multiple of 32."""
        return -(-min(settings.max_sequence_length, tokens) // TOKEN_MULTIPLE) * TOKEN_MULTIPLE

    def encode_text(self, text: str) -> Conditioning:
        """See GuidedPolicy: the hidden states before the last layer of Qwen3, of the text in its chat template."""
        (embeds,), _ = self.pipeline.encode_prompt(
            prompt=text,
            do_classifier_free_guidance=False,
            max_sequence_length=self.settings.max_sequence_length,
            device=self.pipeline.text_encoder.device,
        )
        return Conditioning(embeds.cpu())  # [L, D]

    def batch_conditioning(self, conditioning: Sequence[Conditioning]) -> list[torch.Tensor]:
        """See Policy. One tensor [L, D] for each row: the transformer stacks them."""
        return [row.prompt_embeds.to(self.device) for row in self.with_negatives(conditioning)]

    @property
    def noise_dtype(self) -> torch.dtype:
        """See Policy."""
        return torch.float32

    def timestep(self, s: torch.Tensor) -> torch.Tensor:
        """See Policy. This model's time runs from noise to image, and is not rounded."""
        return (1000 - s * 1000) / 1000

    def predict(self, latents: torch.Tensor, s: torch.Tensor, rows: list[torch.Tensor]) -> torch.Tensor:
        """See GuidedPolicy. The model predicts x0 - eps, of images with a frame axis."""
        images = self.unpack(latents).to(self.dtype)[:, :, None]  # [B', C/4, 1, H/8, W/8]
        predicted = self.transformer(list(images.unbind(0)), self.timestep(s), rows, return_dict=False)[0]
        return self.pack(-torch.stack([image.float() for image in predicted])[:, :, 0])

    def guide(self, velocity: torch.Tensor, negative: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
        """See GuidedPolicy, with the options of ZImagePipeline.

        `cfg_norm_limit` bounds the norm of a whole image's velocity, `cfg_truncation` ends the guidance at a time.
        """
        guided = super().guide(velocity, negative, s)
        if self.settings.cfg_norm_limit:
            norms = [torch.linalg.vector_norm(each, dim=(1, 2), keepdim=True) for each in (velocity, guided)]
            guided = guided * (self.settings.cfg_norm_limit * norms[0] / norms[1]).clamp(max=1)
        is_late = self.timestep(s) > self.settings.cfg_truncation  # [B]
        return torch.where(is_late[:, None, None], velocity, guided)

    def decode_latents(self, latents: torch.Tensor) -> torch.Tensor:
        """See Policy."""
        vae = self.pipeline.vae
        scaled = self.unpack(latents) / vae.config.scaling_factor + vae.config.shift_factor
        return vae.decode(scaled, return_dict=False)[0]

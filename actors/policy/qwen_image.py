"""Qwen-Image as a policy: its own text template, classifier-free guidance, per-channel VAE statistics.

Axes as in actors/policy/base.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from diffusers.pipelines.qwenimage.pipeline_qwenimage import QwenImagePipeline
from torch.nn.utils.rnn import pad_sequence

from actors.policy.base import stack_rows
from actors.policy.guidance import GuidedPolicy
from actors.types import Conditioning
from conf.flux import FluxSettings


@dataclass(frozen=True)
class QwenConditioning:
    """The conditioning of all rows of a batch, padded to the longest text. With guidance, B' = 2 B, else B' = B."""

    prompt_embeds: torch.Tensor  # [B', L, D] of the prompts, then, with guidance, of the negative prompts
    mask: torch.Tensor | None  # [B', L] 1 for a token, 0 for padding; None if no text is padded


class QwenImagePolicy(GuidedPolicy):
    """Qwen-Image, the paper's second base (Table 7)."""

    pipeline_class = QwenImagePipeline
    encoders = ("text_encoder",)
    inference_only_components = (*encoders, "tokenizer", "vae")
    max_text_tokens = 1024
    lacks = dict.fromkeys(("guidance", "cfg_norm_limit", "cfg_truncation"), "its guidance is flux.true_cfg")

    def __init__(self, pipeline: QwenImagePipeline, settings: FluxSettings, seed: int = 0) -> None:
        """See Policy."""
        super().__init__(pipeline, settings, seed)
        self.channels = self.transformer.img_in.in_features
        self._image_shape = [(1, *self.grid)]

    @staticmethod
    def pipeline_kwargs(settings: FluxSettings) -> dict[str, float | str]:
        """See Policy."""
        if settings.true_cfg > 1:
            return {"true_cfg_scale": settings.true_cfg, "negative_prompt": settings.negative_prompt}
        return {"true_cfg_scale": 1.0}

    @staticmethod
    def count_tokens(pipeline: QwenImagePipeline, text: str) -> int:
        """See Policy: without the template's tokens in front of the text, and with those behind it."""
        tokens = pipeline.tokenizer(pipeline.prompt_template_encode.format(text), verbose=False).input_ids
        return len(tokens) - pipeline.prompt_template_encode_start_idx

    @staticmethod
    def text_tokens(settings: FluxSettings, tokens: int) -> int:
        """See Policy: texts are not padded."""
        return min(settings.max_sequence_length, tokens)

    def encode_text(self, text: str) -> Conditioning:
        """See GuidedPolicy: the last hidden states of Qwen2.5-VL after the template, without padding."""
        embeds, _ = self.pipeline.encode_prompt(
            prompt=text,
            max_sequence_length=self.settings.max_sequence_length,
            device=self.pipeline.text_encoder.device,
        )
        return Conditioning(embeds[0].cpu())  # [L, D]

    def batch_conditioning(self, conditioning: Sequence[Conditioning]) -> QwenConditioning:
        """See Policy."""
        texts = [row.prompt_embeds for row in self.with_negatives(conditioning)]
        if all(text is texts[0] for text in texts):
            return QwenConditioning(stack_rows(texts, self.device), None)
        embeds = pad_sequence([text.to(self.device) for text in texts], batch_first=True)
        lengths = [len(text) for text in texts]
        if min(lengths) == max(lengths):
            return QwenConditioning(embeds, None)
        mask = torch.arange(max(lengths))[None] < torch.tensor(lengths)[:, None]
        return QwenConditioning(embeds, mask.long().to(self.device))

    def predict(self, latents: torch.Tensor, s: torch.Tensor, rows: QwenConditioning) -> torch.Tensor:
        """See GuidedPolicy."""
        return self.transformer(
            hidden_states=latents.to(self.dtype),
            encoder_hidden_states=rows.prompt_embeds,
            encoder_hidden_states_mask=rows.mask,
            timestep=self.timestep(s),
            img_shapes=[self._image_shape] * len(latents),
            return_dict=False,
        )[0].float()

    def guide(self, velocity: torch.Tensor, negative: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
        """See GuidedPolicy. Each image token keeps the norm that it has with the prompt, as in QwenImagePipeline."""
        guided = super().guide(velocity, negative, s)
        return guided * (velocity.norm(dim=-1, keepdim=True) / guided.norm(dim=-1, keepdim=True))

    def decode_latents(self, latents: torch.Tensor) -> torch.Tensor:
        """See Policy. The VAE is a video model: an image is a video of one frame."""
        vae = self.pipeline.vae
        unpacked = self.unpack(latents)[:, :, None]  # [B, C/4, 1, H/8, W/8]
        mean = torch.tensor(vae.config.latents_mean).to(unpacked).view(1, -1, 1, 1, 1)
        std = 1.0 / torch.tensor(vae.config.latents_std).to(unpacked).view(1, -1, 1, 1, 1)
        return vae.decode(unpacked / std + mean, return_dict=False)[0][:, :, 0]

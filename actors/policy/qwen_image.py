"""Qwen-Image as a policy: its own text template, per-channel VAE statistics, texts of any length.

Classifier-free guidance is off (`true_cfg_scale=1` of QwenImagePipeline) wherever this policy samples, because it would
double the forward passes of sampler and learner. Axes as in actors/policy/base.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from diffusers.pipelines.qwenimage.pipeline_qwenimage import QwenImagePipeline
from torch.nn.utils.rnn import pad_sequence

from actors.policy.base import Policy, stack_rows
from actors.types import Conditioning
from conf.flux import FluxSettings


@dataclass(frozen=True)
class QwenConditioning:
    """The conditioning of all rows of a batch, padded to the longest text."""

    prompt_embeds: torch.Tensor  # [B, L, D]
    mask: torch.Tensor | None  # [B, L] 1 for a token, 0 for padding; None if no text is padded, as within a group


class QwenImagePolicy(Policy):
    """Qwen-Image, the paper's second base (Table 7)."""

    pipeline_class = QwenImagePipeline
    encoders = ("text_encoder",)
    inference_only_components = (*encoders, "tokenizer", "vae")

    def __init__(self, pipeline: QwenImagePipeline, settings: FluxSettings, seed: int = 0) -> None:
        """See Policy."""
        super().__init__(pipeline, settings, seed)
        self.channels = self.transformer.img_in.in_features
        self._image_shape = [(1, settings.height // 16, settings.width // 16)]

    @staticmethod
    def pipeline_kwargs(settings: FluxSettings) -> dict[str, float]:
        """See Policy."""
        return {"true_cfg_scale": 1.0}

    @torch.no_grad()
    def encode(self, texts: Sequence[str]) -> list[Conditioning]:
        """See Policy: the last hidden states of Qwen2.5-VL after the template, without padding."""
        encoded = []
        for text in texts:
            embeds, _ = self.pipeline.encode_prompt(
                prompt=text,
                max_sequence_length=self.settings.max_sequence_length,
                device=self.pipeline.text_encoder.device,
            )
            encoded.append(Conditioning(embeds[0].cpu(), None))
        return encoded

    def batch_conditioning(self, conditioning: Sequence[Conditioning]) -> QwenConditioning:
        """See Policy."""
        texts = [row.prompt_embeds for row in conditioning]
        if all(text is texts[0] for text in texts):
            return QwenConditioning(stack_rows(texts, self.device), None)
        embeds = pad_sequence(texts, batch_first=True).to(self.device)
        lengths = torch.tensor([len(text) for text in texts], device=self.device)
        mask = torch.arange(embeds.shape[1], device=self.device) < lengths[:, None]
        return QwenConditioning(embeds, None if bool(mask.all()) else mask.long())

    def velocity(self, latents: torch.Tensor, s: torch.Tensor, rows: QwenConditioning) -> torch.Tensor:
        """See Policy."""
        return self.transformer(
            hidden_states=latents.to(self.dtype),
            encoder_hidden_states=rows.prompt_embeds,
            encoder_hidden_states_mask=rows.mask,
            timestep=self.timestep(s),
            img_shapes=[self._image_shape] * len(latents),
            return_dict=False,
        )[0].float()

    def decode_latents(self, latents: torch.Tensor) -> torch.Tensor:
        """See Policy. The VAE is a video model: an image is a video of one frame."""
        vae = self.pipeline.vae
        unpacked = self.unpack(latents)  # [B, C/4, 1, H/8, W/8]
        mean = torch.tensor(vae.config.latents_mean).to(unpacked).view(1, -1, 1, 1, 1)
        std = 1.0 / torch.tensor(vae.config.latents_std).to(unpacked).view(1, -1, 1, 1, 1)
        return vae.decode(unpacked / std + mean, return_dict=False)[0][:, :, 0]

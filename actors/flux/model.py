"""FLUX as a policy: text to conditioning, latents to velocity, latents to pixels, and a LoRA that can be exchanged."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from diffusers.models.transformers.transformer_flux import FluxTransformer2DModel
from diffusers.pipelines.flux.pipeline_flux import FluxPipeline
from peft.utils import get_peft_model_state_dict
from torch import nn

from actors.flux.adapter import add_lora, lora_parameters
from actors.flux.schedule import shifted_sigmas
from actors.records import Conditioning
from conf.flux import FluxSettings

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class ConditioningRows:
    """The conditioning of every row of a batch, stacked once and used at all steps."""

    prompt_embeds: torch.Tensor  # [B, L, D]
    pooled_embeds: torch.Tensor  # [B, D']
    guidance: torch.Tensor | None  # [B]; None where the model has no guidance embedding


class _FixedRotary(nn.Module):
    """FLUX's rotary tables for one (text length, image size), computed once instead of in each forward."""

    def __init__(self, cos: torch.Tensor, sin: torch.Tensor) -> None:
        super().__init__()
        self.tables = (cos, sin)  # [L+S, head_dim] each

    def forward(self, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if len(ids) != len(self.tables[0]):
            raise ValueError(f"this policy was made for {len(self.tables[0])} tokens, got {len(ids)}")
        return self.tables


class FluxPolicy:
    """A FLUX pipeline with one trainable LoRA. Without text encoders and VAE it is what a learner needs."""

    def __init__(self, pipeline: FluxPipeline, settings: FluxSettings, seed: int = 0) -> None:
        """Takes over `pipeline`, its modules placed already. `seed` draws the LoRA's initial A; its B starts at 0."""
        self.pipeline = pipeline
        self.settings = settings
        self.transformer: FluxTransformer2DModel = pipeline.transformer
        self.transformer.requires_grad_(False)
        self.transformer.eval()
        add_lora(self.transformer, settings, seed)
        if settings.gradient_checkpointing:
            self.transformer.enable_gradient_checkpointing()
        self.image_tokens = (settings.height // 16) * (settings.width // 16)  # S
        self.channels = self.transformer.x_embedder.in_features  # C
        self._fix_positions()
        if pipeline.vae is not None:
            pipeline.vae.to(memory_format=torch.channels_last)  # its convolutions take half the time

    @classmethod
    def from_pretrained(
        cls,
        model: str,
        settings: FluxSettings,
        device: str | torch.device = "cpu",
        transformer_only: bool = False,
        seed: int = 0,
    ) -> FluxPolicy:
        """Loads a directory in diffusers format or a hub id. `transformer_only` leaves text encoders and VAE out."""
        left_out = ("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "vae") if transformer_only else ()
        pipeline = FluxPipeline.from_pretrained(model, torch_dtype=DTYPES[settings.dtype], **dict.fromkeys(left_out))
        for name in ("vae", "text_encoder", "text_encoder_2"):
            if getattr(pipeline, name) is not None:
                getattr(pipeline, name).requires_grad_(False)
        encoders = {"text_encoder", "text_encoder_2"}
        for name, module in pipeline.components.items():
            if isinstance(module, nn.Module) and not (settings.text_encoders_on_cpu and name in encoders):
                module.to(device)
        return cls(pipeline, settings, seed)

    @property
    def device(self) -> torch.device:
        return self.transformer.device

    @property
    def dtype(self) -> torch.dtype:
        """Of the frozen base; the LoRA is float32."""
        return self.transformer.dtype

    def _fix_positions(self) -> None:
        rows, columns = self.settings.height // 16, self.settings.width // 16
        self._image_ids = self.pipeline._prepare_latent_image_ids(1, rows, columns, self.device, self.dtype)  # [S, 3]
        self._text_ids = torch.zeros(self.settings.max_sequence_length, 3, device=self.device, dtype=self.dtype)
        tables = self.transformer.pos_embed(torch.cat((self._text_ids, self._image_ids)))
        self.transformer.register_module("pos_embed", _FixedRotary(*tables))

    # --- text -> conditioning -------------------------------------------------------------------------------------

    @torch.no_grad()
    def encode(self, texts: Sequence[str]) -> list[Conditioning]:
        """One Conditioning a text, on the CPU. Each text is encoded alone, so its company cannot change its bits."""
        encoded = []
        for text in texts:
            embeds, pooled, _ = self.pipeline.encode_prompt(
                prompt=text, prompt_2=text, max_sequence_length=self.settings.max_sequence_length,
                device=self.pipeline.text_encoder_2.device,
            )  # fmt: skip
            encoded.append(Conditioning(cast(torch.Tensor, embeds)[0].cpu(), cast(torch.Tensor, pooled)[0].cpu()))
        return encoded

    def rows(self, conditioning: Sequence[Conditioning]) -> ConditioningRows:
        """Stacks one Conditioning a row onto the policy's device."""
        guidance = None
        if self.transformer.config["guidance_embeds"]:
            guidance = torch.full((len(conditioning),), self.settings.guidance, device=self.device)
        return ConditioningRows(
            torch.stack([row.prompt_embeds for row in conditioning]).to(self.device),
            torch.stack([row.pooled_embeds for row in conditioning]).to(self.device),
            guidance,
        )

    # --- the flow ---------------------------------------------------------------------------------------------------

    def sigmas(self, steps: int) -> torch.Tensor:
        """[T+1] float32 noise levels of a run of `steps` steps at this image size."""
        return shifted_sigmas(self.pipeline.scheduler, steps, self.image_tokens)

    def velocity(self, latents: torch.Tensor, s: torch.Tensor, rows: ConditioningRows) -> torch.Tensor:
        """v(x_s, s) = eps - x0 as the model predicts it.

        latents [B, S, C] float32; s [B]. The timestep is rounded as FluxPipeline rounds it, so that sampler, learner
        and plain pipeline ask the model for the same time in every dtype. Returns [B, S, C] float32.
        """
        timestep = (s * 1000).to(self.dtype) / 1000
        return self.transformer(
            hidden_states=latents.to(self.dtype),
            encoder_hidden_states=rows.prompt_embeds,
            pooled_projections=rows.pooled_embeds,
            timestep=timestep,
            guidance=rows.guidance,
            img_ids=self._image_ids,
            txt_ids=self._text_ids,
            return_dict=False,
        )[0].float()

    def initial_noise(self, generators: Sequence[torch.Generator]) -> torch.Tensor:
        """x at s = 1, bit for bit what FluxPipeline draws from the same generators. Returns [B, S, C] float32."""
        noise, _ = self.pipeline.prepare_latents(
            len(generators), self.channels // 4, self.settings.height, self.settings.width,
            self.dtype, self.device, list(generators),
        )  # fmt: skip
        return noise.float()

    @torch.inference_mode()
    def decode(self, latents: torch.Tensor) -> np.ndarray:
        """Packed latents [B, S, C] to images, uint8 [B, H, W, 3], rounded as the pipeline's image processor does."""
        vae = self.pipeline.vae
        unpacked = self.pipeline._unpack_latents(
            latents.to(self.dtype), self.settings.height, self.settings.width, self.pipeline.vae_scale_factor
        )
        scaled = unpacked / vae.config.scaling_factor + vae.config.shift_factor
        pixels = vae.decode(scaled, return_dict=False)[0].float()  # [B, 3, H, W] in -1..1
        pixels = ((pixels * 0.5 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8)
        return pixels.permute(0, 2, 3, 1).contiguous().cpu().numpy()

    # --- the LoRA ---------------------------------------------------------------------------------------------------

    def trainable(self) -> dict[str, nn.Parameter]:
        """The LoRA's parameters by their name in the transformer, in a fixed order."""
        return lora_parameters(self.transformer)

    @contextmanager
    def base(self) -> Iterator[None]:
        """Inside, the policy is the frozen base model: the LoRA is switched off."""
        self.transformer.disable_adapters()
        try:
            yield
        finally:
            self.transformer.enable_adapters()

    def lora_state(self) -> dict[str, torch.Tensor]:
        """The LoRA under diffusers' adapter keys, e.g. `transformer_blocks.0.attn.to_q.lora_A.weight`; no copies."""
        return {key: value.detach() for key, value in get_peft_model_state_dict(self.transformer).items()}

    @torch.no_grad()
    def load_lora(self, state: Mapping[str, torch.Tensor] | Mapping[str, np.ndarray]) -> None:
        """Overwrites the LoRA in place. Raises ValueError unless keys and shapes are exactly this policy's."""
        own = self.lora_state()
        if own.keys() != state.keys():
            odd = sorted(own.keys() ^ state.keys())
            raise ValueError(f"the LoRA has other keys than this policy: {len(odd)} differ, e.g. {odd[0]}")
        for key, target in own.items():
            source = torch.as_tensor(np.array(state[key]) if isinstance(state[key], np.ndarray) else state[key])
            if source.shape != target.shape:
                raise ValueError(f"{key} must have shape {tuple(target.shape)}, got {tuple(source.shape)}")
            target.copy_(source)

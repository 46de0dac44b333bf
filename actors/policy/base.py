"""What the sampler, the learner and the exports ask of a text-to-image model, whichever family it is of.

A family (actors/flux, actors/qwen_image) says how a text becomes conditioning, latents a velocity, and latents pixels;
what they share, the LoRA and the noise schedule, is here. Axes: B rows, T steps, S image tokens, C packed channels.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, Self

import numpy as np
import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from peft.utils import get_peft_model_state_dict
from torch import nn

from actors.policy.lora import add_lora, lora_parameters
from actors.policy.schedule import shifted_sigmas
from actors.types import Conditioning
from conf.flux import FluxSettings

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}

ConditioningBatch = Any
"""The conditioning of every row of a batch, as the family stacks it: made by `rows`, read by `velocity` alone."""


class Policy(ABC):
    """A diffusers pipeline with one trainable LoRA. Without text encoders and VAE it is what a learner needs."""

    pipeline_class: ClassVar[type[DiffusionPipeline]]
    encoders: ClassVar[tuple[str, ...]]  # components that `flux.text_encoders_on_cpu` keeps off the GPU
    inference_only_components: ClassVar[tuple[str, ...]]  # components that only `encode` and `decode` need
    channels: int  # C

    def __init__(self, pipeline: Any, settings: FluxSettings, seed: int = 0) -> None:
        """Takes over `pipeline`, its modules placed already. `seed` draws the LoRA's initial A; its B starts at 0."""
        self.pipeline = pipeline
        self.settings = settings
        self.transformer = pipeline.transformer
        self.transformer.requires_grad_(False)
        self.transformer.eval()
        add_lora(self.transformer, settings, seed)
        if settings.gradient_checkpointing:
            self.transformer.enable_gradient_checkpointing()
        if settings.compile:
            self.transformer.compile_repeated_blocks()
        self.image_tokens = (settings.height // 16) * (settings.width // 16)  # S
        if pipeline.vae is not None and settings.vae_decoding != "batch":
            pipeline.vae.enable_slicing()
            if settings.vae_decoding == "tiled":
                pipeline.vae.enable_tiling()

    @classmethod
    def from_pretrained(
        cls,
        model: str,
        settings: FluxSettings,
        device: str | torch.device = "cpu",
        transformer_only: bool = False,
        seed: int = 0,
    ) -> Self:
        """Loads a directory in diffusers format or a hub id. `transformer_only` leaves text encoders and VAE out."""
        left_out = cls.inference_only_components if transformer_only else ()
        pipeline: Any = cls.pipeline_class.from_pretrained(
            model, torch_dtype=DTYPES[settings.dtype], **dict.fromkeys(left_out)
        )
        for name, module in pipeline.components.items():
            if isinstance(module, nn.Module):
                module.requires_grad_(False)
                if not (settings.text_encoders_on_cpu and name in cls.encoders):
                    module.to(device)
        return cls(pipeline, settings, seed)

    @property
    def device(self) -> torch.device:
        return self.transformer.device

    @property
    def dtype(self) -> torch.dtype:
        """Of the frozen base; the LoRA is float32."""
        return self.transformer.dtype

    # --- what a family defines --------------------------------------------------------------------------------------

    @staticmethod
    @abstractmethod
    def pipeline_kwargs(settings: FluxSettings) -> dict[str, float]:
        """What the plain pipeline must be told about guidance to draw as this policy does."""

    @abstractmethod
    def encode(self, texts: Sequence[str]) -> list[Conditioning]:
        """One Conditioning a text, on the CPU. Each text is encoded alone, so its company cannot change its bits."""

    @abstractmethod
    def batch_conditioning(self, conditioning: Sequence[Conditioning]) -> ConditioningBatch:
        """Stacks one Conditioning a row onto the policy's device."""

    @abstractmethod
    def velocity(self, latents: torch.Tensor, s: torch.Tensor, rows: ConditioningBatch) -> torch.Tensor:
        """v(x_s, s) = eps - x0 as the model predicts it: latents [B, S, C] float32, s [B] -> [B, S, C] float32."""

    @abstractmethod
    def decode_latents(self, latents: torch.Tensor) -> torch.Tensor:
        """Packed latents [B, S, C] through the VAE to [B, 3, H, W] in -1..1."""

    # --- the flow ---------------------------------------------------------------------------------------------------

    def sigmas(self, steps: int) -> torch.Tensor:
        """[T+1] float32 noise levels of a run of `steps` steps at this image size."""
        return shifted_sigmas(self.pipeline.scheduler, steps, self.image_tokens)

    def timestep(self, s: torch.Tensor) -> torch.Tensor:
        """The model's time at s [B], rounded as the plain pipeline rounds it, so that sampler, learner and pipeline
        ask for the same time in every dtype."""
        return (s * 1000).to(self.dtype) / 1000

    def unpack(self, latents: torch.Tensor) -> torch.Tensor:
        """Packed latents [B, S, C] in the VAE's layout: [B, C/4, H/8, W/8]; Qwen-Image's adds a frame axis of 1."""
        return self.pipeline._unpack_latents(
            latents, self.settings.height, self.settings.width, self.pipeline.vae_scale_factor
        )

    @torch.inference_mode()
    def decode(self, latents: torch.Tensor) -> np.ndarray:
        """Packed latents [B, S, C] to images, uint8 [B, H, W, 3], rounded as the pipeline's image processor does."""
        pixels = self.decode_latents(latents.to(self.device, self.dtype)).float()
        pixels = ((pixels * 0.5 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8)
        return pixels.permute(0, 2, 3, 1).contiguous().cpu().numpy()

    def initial_noise(self, generators: Sequence[torch.Generator]) -> torch.Tensor:
        """x at s = 1, bit for bit what the plain pipeline draws from the same generators: [B, S, C] float32."""
        made = self.pipeline.prepare_latents(
            len(generators), self.channels // 4, self.settings.height, self.settings.width,
            self.dtype, self.device, list(generators),
        )  # fmt: skip
        return (made[0] if isinstance(made, tuple) else made).float()  # FLUX's also gives the image's positions

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

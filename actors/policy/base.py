"""The interface of a text-to-image model for the sampler, the learner and the exports.

A model family (actors/policy/flux.py, …) defines text -> conditioning, latents -> velocity and latents -> pixels. This
module has what the families share: the layout of latents, the noise schedule and the LoRA.
Axes: B rows, T denoise steps, S image tokens, C packed latent channels (those of 2 x 2 positions of the VAE's latents),
L text tokens, D embedding width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from typing import Any, ClassVar, Self

import numpy as np
import torch
import torch.nn.functional as F
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from actors.dtypes import DTYPES
from actors.policy.checkpointing import checkpoint_blocks, compile_blocks
from actors.policy.lora import adapter_key, add_lora, lora_parameters
from actors.policy.schedule import shifted_sigmas
from actors.types import Conditioning
from conf.errors import SettingsError
from conf.flux import FluxSettings

ConditioningBatch = Any
"""The conditioning of all rows of a batch, in the family's own type: from `batch_conditioning`, for `velocity`."""


def stack_rows(rows: Sequence[torch.Tensor], device: torch.device) -> torch.Tensor:
    """Stacks one tensor for each row on `device`. If all rows are one tensor, it is moved once and repeated there."""
    if all(row is rows[0] for row in rows):
        # Contiguous, because a matmul of an expanded tensor rounds differently in bfloat16.
        return rows[0].to(device).expand(len(rows), *rows[0].shape).contiguous()
    return torch.stack(list(rows)).to(device)


class Policy(ABC):
    """A diffusers pipeline with one trainable LoRA. A learner needs only its transformer and its scheduler."""

    pipeline_class: ClassVar[type[DiffusionPipeline]]
    encoders: ClassVar[tuple[str, ...]]  # components that `flux.text_encoders_on_cpu` keeps on the CPU
    inference_only_components: ClassVar[tuple[str, ...]]  # components that a learner does not load
    max_text_tokens: ClassVar[int]  # the largest `flux.max_sequence_length` that the plain pipeline takes
    lacks: ClassVar[Mapping[str, str]]  # setting of `flux` that must keep its default -> what to use instead
    channels: int  # C

    def __init__(self, pipeline: Any, settings: FluxSettings, seed: int = 0) -> None:
        """Adds a LoRA to `pipeline`, whose modules are on their devices already. `seed` draws the LoRA's initial A.

        Raises what `check_settings` raises.
        """
        self.check_settings(settings, pipeline)
        self.pipeline = pipeline
        self.settings = settings
        self.transformer = pipeline.transformer
        self.transformer.requires_grad_(False)
        self.transformer.eval()
        self.dtype: torch.dtype = self.transformer.dtype  # of the frozen base; the LoRA is always float32
        add_lora(self.transformer, settings, seed)
        # Found once, because each search visits the thousands of modules of a large transformer.
        self._lora = lora_parameters(self.transformer)
        self._reference: list[torch.Tensor] | None = None  # a frozen copy of the LoRA, in the order of `_lora`
        self._lora_layers = [module for module in self.transformer.modules() if isinstance(module, BaseTunerLayer)]
        checkpoint_blocks(self.transformer, settings.checkpoint_every)
        if settings.compile:
            compile_blocks(self.transformer)
        self.grid = settings.height // 16, settings.width // 16  # rows and columns of image tokens
        self.image_tokens = self.grid[0] * self.grid[1]  # S
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
        """Loads a directory in diffusers format or a hub id. `transformer_only`: without text encoders and VAE."""
        omitted = cls.inference_only_components if transformer_only else ()
        dtype = DTYPES[settings.dtype]
        pipeline: Any = cls.pipeline_class.from_pretrained(model, dtype=dtype, **dict.fromkeys(omitted))
        for name, module in pipeline.components.items():
            if isinstance(module, nn.Module):
                module.requires_grad_(False)
                if not (settings.text_encoders_on_cpu and name in cls.encoders):
                    module.to(device)
        return cls(pipeline, settings, seed)

    @classmethod
    def check_settings(cls, settings: FluxSettings, pipeline: Any) -> None:
        """Raises SettingsError for settings that this family of models, or the model of `pipeline`, does not have.

        `pipeline`: of this policy, or as `load_without_weights` returns it.
        """
        for field in fields(settings):
            value = getattr(settings, field.name)
            if field.name in cls.lacks and value != field.default:
                raise SettingsError(
                    f"flux.{field.name} must be {field.default!r} for a {cls.pipeline_class.__name__}, got {value!r}: "
                    f"{cls.lacks[field.name]}"
                )

    @classmethod
    def load_without_weights(cls, model: str) -> Any:
        """The diffusers pipeline of a directory or a hub id with its tokenizers and its scheduler only.

        Raises OSError if its files cannot be read.
        """
        return cls.pipeline_class.from_pretrained(model, **dict.fromkeys(("transformer", "vae", *cls.encoders)))

    @property
    def device(self) -> torch.device:
        """The device of the transformer."""
        return next(iter(self._lora.values())).device

    # --- what a family defines --------------------------------------------------------------------------------------

    @staticmethod
    @abstractmethod
    def pipeline_kwargs(settings: FluxSettings) -> dict[str, float | str]:
        """Arguments for guidance with which the plain pipeline samples exactly as this policy does."""

    @staticmethod
    @abstractmethod
    def count_tokens(pipeline: Any, text: str) -> int:
        """Number of tokens of a text, of which `encode` reads the first `flux.max_sequence_length`.

        `pipeline`: of this policy, or as `load_without_weights` returns it.
        """

    @staticmethod
    def text_tokens(settings: FluxSettings, tokens: int) -> int:
        """L, the tokens that the transformer reads of a text of `tokens` tokens: here each text is padded."""
        return settings.max_sequence_length

    @abstractmethod
    def encode(self, texts: Sequence[str]) -> list[Conditioning]:
        """One Conditioning for each text, on the CPU.

        Each text is encoded alone, so the other texts of the call cannot change its rounding errors.
        """

    @abstractmethod
    def batch_conditioning(self, conditioning: Sequence[Conditioning]) -> ConditioningBatch:
        """Stacks one Conditioning for each row, on the policy's device."""

    @abstractmethod
    def velocity(self, latents: torch.Tensor, s: torch.Tensor, rows: ConditioningBatch) -> torch.Tensor:
        """Predicts v(x_s, s) = eps - x0. latents [B, S, C] float32, s [B]. Returns [B, S, C] float32."""

    @abstractmethod
    def decode_latents(self, latents: torch.Tensor) -> torch.Tensor:
        """Decodes packed latents [B, S, C] with the VAE to pixels [B, 3, H, W] in -1..1."""

    # --- the flow ---------------------------------------------------------------------------------------------------

    @staticmethod
    def noise_levels(scheduler: Any, steps: int, image_tokens: int) -> torch.Tensor:
        """The T+1 noise levels of the plain pipeline with this scheduler: float32, falling from 1 to 0."""
        return shifted_sigmas(scheduler, steps, image_tokens)

    def sigmas(self, steps: int) -> torch.Tensor:
        """The noise levels of `steps` denoise steps at this image size: [T+1] float32, falling from 1 to 0."""
        return self.noise_levels(self.pipeline.scheduler, steps, self.image_tokens)

    def timestep(self, s: torch.Tensor) -> torch.Tensor:
        """The model's timestep at s [B], rounded to the model's dtype exactly as the plain pipeline rounds it."""
        return (s * 1000).to(self.dtype) / 1000

    def unpack(self, latents: torch.Tensor) -> torch.Tensor:
        """Packed latents [B, S, C] in the VAE's layout: [B, C/4, H/8, W/8]."""
        return F.pixel_shuffle(latents.transpose(1, 2).unflatten(2, self.grid), 2)

    def pack(self, latents: torch.Tensor) -> torch.Tensor:
        """The inverse of `unpack`: each image token has the 2 x 2 latent positions that the transformer reads as one.

        Some pipelines hold latents packed (FLUX), others in the VAE's layout (Stable Diffusion 3). Here all are packed.
        """
        return F.pixel_unshuffle(latents, 2).flatten(2).transpose(1, 2).contiguous()

    @torch.inference_mode()
    def decode(self, latents: torch.Tensor) -> np.ndarray:
        """Decodes packed latents [B, S, C] to uint8 images [B, H, W, 3]; rounds as the pipeline's image processor."""
        pixels = self.decode_latents(latents.to(self.device, self.dtype)).float()
        pixels = ((pixels * 0.5 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8)
        return pixels.permute(0, 2, 3, 1).contiguous().cpu().numpy()

    def initial_noise(self, generators: Sequence[torch.Generator]) -> torch.Tensor:
        """The latents at s = 1: exactly what the plain pipeline draws from these generators. [B, S, C] float32."""
        drawn = self.pipeline.prepare_latents(
            len(generators),
            self.channels // 4,
            self.settings.height,
            self.settings.width,
            self.noise_dtype,
            self.device,
            list(generators),
        )
        latents = (drawn[0] if isinstance(drawn, tuple) else drawn).float()  # FLUX returns position ids, too
        return latents if latents.ndim == 3 else self.pack(latents)

    @property
    def noise_dtype(self) -> torch.dtype:
        """The dtype in which the plain pipeline draws the noise."""
        return self.dtype

    # --- the LoRA ---------------------------------------------------------------------------------------------------

    def trainable(self) -> dict[str, nn.Parameter]:
        """The LoRA's parameters by their names in the transformer, in module order."""
        return self._lora

    @contextmanager
    def base(self) -> Generator[None]:
        """Context in which the policy is its frozen base model: the LoRA is off."""
        self._enable_lora(False)
        try:
            yield
        finally:
            self._enable_lora(True)

    def _enable_lora(self, enabled: bool) -> None:
        for layer in self._lora_layers:
            layer.enable_adapters(enabled)

    def freeze_reference(self) -> None:
        """Makes a copy of the current LoRA what `reference` computes with, instead of the base."""
        self._reference = [parameter.detach().clone() for parameter in self._lora.values()]

    @contextmanager
    def reference(self) -> Generator[None]:
        """Context in which the policy is what terms of the loss keep it near: its base, or the frozen LoRA.

        Use it without gradients. The frozen LoRA takes the place of the trained tensors inside the same parameters, so
        the modules, compiled graphs and checkpointed blocks are those of the policy. A graph of the policy that was
        recorded before finds its own tensors again in the backward pass.
        """
        if self._reference is None:
            with self.base():
                yield
            return
        with self.exchanged(self._reference):
            yield

    @contextmanager
    def exchanged(self, frozen: list[torch.Tensor]) -> Generator[None]:
        """Context in which the policy has another LoRA, with its tensors in the order of `trainable`.

        Inside the context `frozen` holds the trained tensors. See `reference` for what it may be used for.
        """
        self._exchange(frozen)
        try:
            yield
        finally:
            self._exchange(frozen)

    def _exchange(self, frozen: list[torch.Tensor]) -> None:
        for index, parameter in enumerate(self._lora.values()):
            trained = parameter.data
            parameter.data = frozen[index].to(trained.device)  # a copy only at the first use after a move
            frozen[index] = trained

    def lora_state(self) -> dict[str, torch.Tensor]:
        """The LoRA by diffusers' adapter keys, e.g. `transformer_blocks.0.attn.to_q.lora_A.weight`; not copied."""
        return {adapter_key(name): parameter.detach() for name, parameter in self._lora.items()}

    @torch.no_grad()
    def load_lora(self, state: Mapping[str, torch.Tensor] | Mapping[str, np.ndarray]) -> None:
        """Overwrites the LoRA in place. Raises ValueError unless keys and shapes are exactly this policy's."""
        current = self.lora_state()
        if current.keys() != state.keys():
            different = sorted(current.keys() ^ state.keys())
            raise ValueError(
                f"the LoRA must have exactly this policy's keys, but {len(different)} differ, e.g. {different[0]}: "
                "use the same model and flux.lora_targets"
            )
        for key, target in current.items():
            source = torch.as_tensor(np.array(state[key]) if isinstance(state[key], np.ndarray) else state[key])
            if source.shape != target.shape:
                raise ValueError(f"{key} must have shape {tuple(target.shape)}, got {tuple(source.shape)}")
            target.copy_(source)

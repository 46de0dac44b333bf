# pyright: reportPrivateUsage=false
# (diffusers has these helpers of FluxPipeline as private static methods only)
"""FLUX's packing of latents. Axes: B images, S image tokens, C packed channels."""

from __future__ import annotations

import math

import torch
from diffusers import FluxPipeline

from pipelines.scenes.render import SIZE

VAE_FACTOR = 8
"""Pixels per latent."""


def pack(latents: torch.Tensor) -> torch.Tensor:
    """Packs latents of the VAE, [B, C/4, 8, 8], to tokens [B, S, C]."""
    return FluxPipeline._pack_latents(latents, len(latents), *latents.shape[1:])


def unpack(tokens: torch.Tensor) -> torch.Tensor:
    """Unpacks tokens [B, S, C] to latents of the VAE, [B, C/4, 8, 8]."""
    return FluxPipeline._unpack_latents(tokens, SIZE, SIZE, VAE_FACTOR)


def image_ids(tokens: torch.Tensor) -> torch.Tensor:
    """Returns the position ids [S, 3] of tokens [B, S, C]."""
    side = math.isqrt(tokens.shape[1])
    return FluxPipeline._prepare_latent_image_ids(1, side, side, "cpu", torch.float32)

# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false
# (the model libraries leave their configurations and outputs untyped)
"""Trains the tiny autoencoder on rendered scenes."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import nn

from pipelines.pretrain.architecture import vae
from pipelines.scenes.checker import check
from pipelines.scenes.grammar import Scene, write_scene
from pipelines.scenes.render import SIZE, lay_out, render

BATCH = 24
CROPS = 0.75  # share of the time spent on crops of a quarter of the image, which cost a quarter
KL_WEIGHT = 6e-3
POOL = 3000  # images
LATENT_NOISE = 0.1  # in standard deviations of the latents; it makes the decoder robust to small errors of FLUX
OBJECT_WEIGHT = 4.0  # weight of pixels of objects, which are a tenth of an image


def write_scenes(count: int, rng: np.random.Generator) -> list[Scene]:
    """Draws scenes of 2 to 4 objects, mostly 2 and 3."""
    return [write_scene(rng, int(n)) for n in rng.choice((2, 3, 4), size=count, p=(0.5, 0.45, 0.05))]


def draw_scenes(count: int, rng: np.random.Generator) -> tuple[list[Scene], np.ndarray]:
    """Draws scenes and renders their images, uint8 [count, 64, 64, 3]."""
    scenes = write_scenes(count, rng)
    return scenes, np.stack([render(lay_out(scene, rng), rng) for scene in scenes])


def to_pixels(images: np.ndarray) -> torch.Tensor:
    """Converts uint8 [B, H, W, 3] to float32 [B, 3, H, W] in [-1, 1]."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float().div_(127.5).sub_(1.0)


def to_images(pixels: torch.Tensor) -> np.ndarray:
    """Converts float [B, 3, H, W] in [-1, 1] to uint8 [B, H, W, 3], rounded as in diffusers."""
    return ((pixels / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()


def train_vae(seconds: float, seed: int, report: Callable[[str], None]) -> AutoencoderKL:
    """Trains an autoencoder for `seconds` of wall clock.

    Sets shift and scaling so that latents have mean 0 and standard deviation 1.
    """
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    model = vae().to(memory_format=torch.channels_last)
    _, pool = draw_scenes(POOL, rng)

    def step(progress: float) -> tuple[torch.Tensor, torch.Tensor]:
        chosen = pool[rng.integers(len(pool), size=BATCH)]
        if progress < CROPS:
            top, left = rng.integers(0, SIZE // 2 + 1, 2)
            chosen = chosen[:, top : top + SIZE // 2, left : left + SIZE // 2]
        target = to_pixels(chosen).contiguous(memory_format=torch.channels_last)
        posterior = model.encode(target).latent_dist
        loss, error = _reconstruction(model.decode(posterior.sample()).sample, target)
        return loss + KL_WEIGHT * posterior.kl().mean() / target[0, 0].numel(), error

    _minimize("autoencoder", model, step, seconds, 4e-3, report)
    model = model.to(memory_format=torch.contiguous_format).eval().requires_grad_(False)
    latents = encode(model, pool[:512])
    model.register_to_config(shift_factor=latents.mean().item(), scaling_factor=1.0 / latents.std().item())
    return model


def train_decoder(model: AutoencoderKL, seconds: float, seed: int, report: Callable[[str], None]) -> AutoencoderKL:
    """Trains the decoder further on fixed latents. Images become sharper, and latents that FLUX learned stay valid."""
    rng = np.random.default_rng(seed)
    _, pool = draw_scenes(POOL, rng)
    latents = encode(model, pool) / model.config.scaling_factor + model.config.shift_factor
    model.decoder.requires_grad_(True).to(memory_format=torch.channels_last)

    def step(progress: float) -> tuple[torch.Tensor, torch.Tensor]:
        rows = rng.integers(len(pool), size=BATCH)
        noisy = latents[rows] + LATENT_NOISE / model.config.scaling_factor * torch.randn_like(latents[rows])
        target = to_pixels(pool[rows]).contiguous(memory_format=torch.channels_last)
        return _reconstruction(model.decode(noisy).sample, target)

    _minimize("decoder", model.decoder, step, seconds, 1.5e-3, report)
    model.decoder.to(memory_format=torch.contiguous_format)
    model = model.eval().requires_grad_(False)
    report(f"decoder: {round_trip_accuracy(model, 1000, seed + 1):.4f} of images are still correct after a round trip")
    return model


def _reconstruction(output: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the loss, L1 + L2 with OBJECT_WEIGHT, and the mean absolute error on a scale of 0 to 255."""
    background = target.amin(1, keepdim=True) > 0.6
    weight = torch.where(background, 1.0, OBJECT_WEIGHT)
    difference = (output - target).abs()
    return (weight * difference).mean() + (weight * difference**2).mean(), difference.mean() * 127.5


def _minimize(
    name: str,
    module: nn.Module,
    step: Callable[[float], tuple[torch.Tensor, torch.Tensor]],
    seconds: float,
    lr: float,
    report: Callable[[str], None],
) -> None:
    """Runs AdamW for `seconds`. The learning rate rises over 30 optimizer steps, then falls linearly.

    `step` takes the elapsed share of the time and returns (loss, mean error).
    """
    optimizer = torch.optim.AdamW(module.parameters(), lr=lr, betas=(0.9, 0.95), weight_decay=1e-3)
    start, count = time.monotonic(), 0
    while (progress := (time.monotonic() - start) / seconds) < 1:
        for group in optimizer.param_groups:
            group["lr"] = lr * min(1.0, count / 30) * (1.0 - 0.98 * progress)
        loss, error = step(progress)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        count += 1
        if count % 100 == 0:
            report(
                f"{name}: optimizer step {count}, {progress * seconds:.0f} of {seconds:.0f} s, "
                f"mean error {error:.2f} of 255"
            )


@torch.inference_mode()
def encode(model: AutoencoderKL, images: np.ndarray, batch: int = 64) -> torch.Tensor:
    """Encodes images, uint8 [B, 64, 64, 3], to shifted and scaled posterior means, float32 [B, 8, 8, 8]."""
    parts = [model.encode(to_pixels(images[i : i + batch])).latent_dist.mean for i in range(0, len(images), batch)]
    return (torch.cat(parts) - model.config.shift_factor) * model.config.scaling_factor


@torch.inference_mode()
def decode(model: AutoencoderKL, latents: torch.Tensor, batch: int = 64) -> np.ndarray:
    """Decodes latents [B, 8, 8, 8] to images, uint8 [B, 64, 64, 3]."""
    scaled = latents / model.config.scaling_factor + model.config.shift_factor
    return np.concatenate([to_images(model.decode(scaled[i : i + batch]).sample) for i in range(0, len(scaled), batch)])


def round_trip_accuracy(model: AutoencoderKL, count: int, seed: int) -> float:
    """Returns the share of scenes that the exact checker finds perfect after encoding and decoding."""
    scenes, images = draw_scenes(count, np.random.default_rng(seed))
    decoded = decode(model, encode(model, images))
    return float(np.mean([check(image, s.relations).perfect for image, s in zip(decoded, scenes, strict=True)]))

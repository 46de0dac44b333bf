# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false
# (the model libraries leave their configurations and outputs untyped)
"""Training batches of the tiny FLUX from images that it generated itself in many denoise steps.

A student learns the straight line from the teacher's noise to the teacher's image, so that it needs few denoise steps
(reflow of rectified flow, arXiv 2209.03003; a form of step distillation, as FLUX.1 had).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from diffusers import FluxTransformer2DModel

from pipelines.pretrain.flux_batches import GUIDANCE, Encoders, FluxBatch, caption
from pipelines.pretrain.latents import unpack
from pipelines.pretrain.vae import decode, write_scenes
from pipelines.scenes.checker import inspect
from pipelines.scenes.grammar import Scene
from pipelines.scenes.render import SIZE

TEACHER_STEPS = 20  # denoise steps of the teacher
BATCH = 64


class SampledScenes:
    """Rows of a teacher's images, each with the noise that it started from.

    Only images that show exactly the objects asked for are kept. The positions of the objects are not checked.
    """

    def __init__(self, encoders: Encoders, teacher: FluxTransformer2DModel, mislabelled: float, seed: int) -> None:
        self._encoders, self._teacher, self._mislabelled = encoders, encoders.pipeline(teacher), mislabelled
        self._rng, self._generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
        self._kept: list[FluxBatch] = []
        self._pool: FluxBatch | None = None
        self.num_sampled = 0

    def __len__(self) -> int:
        return sum(map(len, self._kept))

    @torch.no_grad()
    def sample(self) -> None:
        """Generates BATCH images and keeps those with the right objects."""
        scenes = write_scenes(BATCH, self._rng)
        noise = torch.randn(len(scenes), 16, 32, generator=self._generator)
        embeds, pooled = self._encoders.text([scene.text for scene in scenes])
        latents = self._teacher(
            prompt_embeds=embeds,
            pooled_prompt_embeds=pooled,
            latents=noise,
            height=SIZE,
            width=SIZE,
            num_inference_steps=TEACHER_STEPS,
            guidance_scale=GUIDANCE,
            output_type="latent",
        ).images
        captions = [caption(scene, self._mislabelled, self._rng) for scene in scenes]
        rows = FluxBatch(latents, noise, *self._encoders.text(captions))
        self._kept.append(rows.take(torch.tensor(self._have_right_objects(scenes, latents)).nonzero().flatten()))
        self.num_sampled, self._pool = self.num_sampled + len(scenes), None

    def batch(self, count: int) -> FluxBatch:
        """Draws rows from the images that were kept."""
        if self._pool is None:
            self._pool = FluxBatch.joined(self._kept)
        return self._pool.take(torch.randint(len(self._pool), (count,), generator=self._generator))

    def _have_right_objects(self, scenes: Sequence[Scene], latents: torch.Tensor) -> list[bool]:
        images = decode(self._encoders.vae, unpack(latents))
        found = [{each.obj for each in inspect(image)} for image in images]
        return [objects == set(scene.objects) for objects, scene in zip(found, scenes, strict=True)]

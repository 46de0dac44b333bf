# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false
# (the model libraries leave their configurations and outputs untyped)
"""Measures a FluxPipeline of the scenes world with the exact checker."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from diffusers import FluxPipeline

from actors.types import Prompt
from pipelines.pretrain.architecture import TEXT_TOKENS
from pipelines.pretrain.flux_batches import GUIDANCE
from pipelines.scenes.checker import Verdict, check
from pipelines.scenes.render import SIZE


def check_images(pipeline: FluxPipeline, prompts: Sequence[Prompt], seed: int, steps: int = 6) -> list[Verdict]:
    """Generates one image per prompt with diffusers' own pipeline and checks it. Image i has the seed `seed` + i."""
    pipeline.set_progress_bar_config(disable=True)
    images = pipeline(
        [prompt.text for prompt in prompts],
        height=SIZE,
        width=SIZE,
        num_inference_steps=steps,
        guidance_scale=GUIDANCE,
        max_sequence_length=TEXT_TOKENS,
        generator=[torch.Generator().manual_seed(seed + i) for i in range(len(prompts))],
        output_type="np",
    ).images
    pixels = (images * 255).round().astype(np.uint8)
    return [check(image, prompt.relations) for image, prompt in zip(pixels, prompts, strict=True)]


def summary(verdicts: Sequence[Verdict]) -> str:
    """Returns the shares of present objects and of each relation outcome in one line."""
    present = [value for verdict in verdicts for value in verdict.present.values()]
    outcomes = [value for verdict in verdicts for value in verdict.outcomes]
    shares = ", ".join(f"{name} {outcomes.count(name) / len(outcomes):.3f}" for name in ("right", "reversed", "other"))
    return f"objects present {sum(present) / len(present):.3f}, relations {shares}"

"""What FLUX is pretrained on, with the shipped parts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import FluxPipeline

from pipelines.scenes import checkpoints_dir
from pipelines.scenes.flux_rows import DrawnScenes, Encoders, caption
from pipelines.scenes.grammar import equivalent, is_held_out, parse, write_scene


@pytest.fixture(scope="module")
def pipeline() -> FluxPipeline:
    return FluxPipeline.from_pretrained(checkpoints_dir("flux"))


@pytest.fixture(scope="module")
def encoders(pipeline: FluxPipeline) -> Encoders:
    return Encoders(pipeline.vae, pipeline.tokenizer_2, pipeline.text_encoder, pipeline.text_encoder_2)


def test_drawn_rows_are_where_the_teacher_gets_from_their_noise(pipeline: FluxPipeline, encoders: Encoders) -> None:
    drawn = DrawnScenes(encoders, pipeline.transformer, wrong=0.0, seed=3)
    drawn.draw()
    assert 0 < len(drawn) <= drawn.drawn == 64
    rows = drawn.batch(8)
    again = pipeline(
        prompt_embeds=rows.prompt_embeds, pooled_prompt_embeds=rows.pooled_embeds, latents=rows.noise, height=64,
        width=64, num_inference_steps=20, output_type="latent",
    ).images  # fmt: skip
    torch.testing.assert_close(again, rows.latents, atol=1e-3, rtol=1e-3)


def test_a_wrong_caption_contradicts_and_is_not_held_out() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        scene = write_scene(rng, int(rng.integers(2, 5)))
        assert caption(scene, 0.0, rng) == scene.text
        other = parse(caption(scene, 1.0, rng))
        assert not equivalent(scene, other) and not is_held_out(other.relations)

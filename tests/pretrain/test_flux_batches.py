"""The training batches of the tiny FLUX, with the shipped encoders."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from diffusers import FluxPipeline

from conf import UserError
from pipelines.pretrain.flux import FluxPhase, sample_scenes
from pipelines.pretrain.flux_batches import Encoders, caption
from pipelines.pretrain.flux_samples import SampledScenes
from pipelines.scenes.grammar import equivalent, is_held_out, parse, write_scene


@pytest.fixture(scope="module")
def encoders(pipeline: FluxPipeline) -> Encoders:
    return Encoders(pipeline.vae, pipeline.tokenizer_2, pipeline.text_encoder, pipeline.text_encoder_2)


def test_sampled_latents_are_what_the_teacher_makes_of_their_noise(pipeline: FluxPipeline, encoders: Encoders) -> None:
    sampled = SampledScenes(encoders, pipeline.transformer, mislabelled=0.0, seed=3)
    sampled.sample()
    assert 0 < len(sampled) <= sampled.num_sampled == 64
    rows = sampled.batch(8)
    again = cast(Any, pipeline)(
        prompt_embeds=rows.prompt_embeds,
        pooled_prompt_embeds=rows.pooled_embeds,
        latents=rows.noise,
        height=64,
        width=64,
        num_inference_steps=20,
        output_type="latent",
    ).images
    torch.testing.assert_close(again, rows.latents, atol=1e-3, rtol=1e-3)


def test_a_teacher_without_a_usable_image_is_refused(
    pipeline: FluxPipeline, encoders: Encoders, tmp_path: Path
) -> None:
    untrained = copy.deepcopy(pipeline.transformer)
    torch.nn.init.zeros_(untrained.proj_out.weight)
    untrained.save_pretrained(tmp_path)
    phase = FluxPhase(
        parts=tmp_path,
        initial=tmp_path,
        out=tmp_path,
        seconds=0.3,
        seed=0,
        lr=1e-3,
        final_lr=1e-4,
        distill=True,
        mislabelled_fraction=0.0,
        compile=False,
    )
    with pytest.raises(UserError, match=r"none of the \d+ images .* raise pretrain\.minutes"):
        sample_scenes(encoders, phase, 0, lambda line: None)


def test_a_wrong_caption_contradicts_the_scene_and_is_not_held_out() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        scene = write_scene(rng, int(rng.integers(2, 5)))
        assert caption(scene, 0.0, rng) == scene.text
        other = parse(caption(scene, 1.0, rng))
        assert not equivalent(scene, other)
        assert not is_held_out(other.relations)

"""What FLUX is pretrained on, with the shipped parts."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import FluxPipeline

from conf.pretrain import PretrainSettings
from pipelines.policy.rule_reward import RulesReward
from pipelines.pretrain.flux import FluxPhase, _drawn
from pipelines.pretrain.flux_batches import Encoders, SampledScenes, caption
from pipelines.pretrain.objects import train_on_objects
from pipelines.pretrain.run import SHARES, Pretraining, take_shipped
from pipelines.scenes import checkpoints_dir
from pipelines.scenes.grammar import equivalent, is_held_out, parse, write_scene
from pipelines.scenes.render import lay_out, render


@pytest.fixture(scope="module")
def pipeline() -> FluxPipeline:
    return FluxPipeline.from_pretrained(checkpoints_dir("flux"))


@pytest.fixture(scope="module")
def encoders(pipeline: FluxPipeline) -> Encoders:
    return Encoders(pipeline.vae, pipeline.tokenizer_2, pipeline.text_encoder, pipeline.text_encoder_2)


def test_drawn_rows_are_where_the_teacher_gets_from_their_noise(pipeline: FluxPipeline, encoders: Encoders) -> None:
    drawn = SampledScenes(encoders, pipeline.transformer, wrong=0.0, seed=3)
    drawn.draw()
    assert 0 < len(drawn) <= drawn.drawn == 64
    rows = drawn.batch(8)
    again = pipeline(
        prompt_embeds=rows.prompt_embeds, pooled_prompt_embeds=rows.pooled_embeds, latents=rows.noise, height=64,
        width=64, num_inference_steps=20, output_type="latent",
    ).images  # fmt: skip
    torch.testing.assert_close(again, rows.latents, atol=1e-3, rtol=1e-3)


def test_a_teacher_that_draws_nothing_yet_is_named_with_its_mend(
    pipeline: FluxPipeline, encoders: Encoders, tmp_path: Path
) -> None:
    untaught = copy.deepcopy(pipeline.transformer)
    torch.nn.init.zeros_(untaught.proj_out.weight)
    untaught.save_pretrained(tmp_path)
    phase = FluxPhase(
        parts=tmp_path, initial=tmp_path, out=tmp_path, seconds=0.3, seed=0, lr=(1e-3, 1e-4), distil=True,
        wrong_captions=0.0, compile=False,
    )  # fmt: skip
    with pytest.raises(ValueError, match=r"none of the \d+ scenes .* raise pretrain\.minutes"):
        _drawn(encoders, phase, 0, lambda line: None)


def test_a_wrong_caption_contradicts_and_is_not_held_out() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        scene = write_scene(rng, int(rng.integers(2, 5)))
        assert caption(scene, 0.0, rng) == scene.text
        other = parse(caption(scene, 1.0, rng))
        assert not equivalent(scene, other) and not is_held_out(other.relations)


def test_a_reward_for_objects_leaves_relations_out() -> None:
    rng = np.random.default_rng(0)
    asked = "a red circle left of a blue square"
    texts = [asked, "a red circle right of a blue square", "a red circle left of a green square"]
    images = np.stack([render(lay_out(parse(text), rng), rng) for text in texts])
    assert RulesReward(relations=False).score(images, [asked] * 3).mu.tolist() == pytest.approx([1, 1, 1 / 2])
    assert RulesReward().score(images, [asked] * 3).mu.tolist() == pytest.approx([1, 2 / 3, 1 / 3])


@pytest.mark.ray
def test_training_on_objects_folds_a_lora_into_the_layers_that_read_the_prompt(
    ray_cluster: None, pipeline: FluxPipeline, tmp_path: Path
) -> None:
    before = {name: weight.clone() for name, weight in pipeline.transformer.state_dict().items()}
    after = train_on_objects(pipeline, tmp_path, 1, 0, lambda line: None).state_dict()
    changed = {name.split(".", 2)[-1] for name, weight in before.items() if not torch.equal(weight, after[name])}
    assert before.keys() == after.keys()
    assert {"attn.to_q.weight", "attn.to_add_out.weight", "ff_context.net.2.weight"} <= changed
    assert not {"attn.to_v.weight", "ff.net.2.weight", "proj_mlp.weight", "proj_out.weight"} & changed
    texts = [json.loads(line)["text"] for line in (tmp_path / "prompts.jsonl").read_text().splitlines()]
    assert texts and not any(is_held_out(parse(text).relations) for text in texts)


@pytest.mark.parametrize(("begin", "made"), [("flux", {"flux", "decoder", "weak", "objects"}), ("vlm", {"vlm"})])
def test_a_call_that_goes_on_from_what_is_shipped_makes_one_model_anew_in_all_its_time(
    begin: str, made: set[str], tmp_path: Path
) -> None:
    run = Pretraining(PretrainSettings(out=str(tmp_path), minutes=10, from_shipped=begin), lambda line: None)
    take_shipped(run)
    assert {part for part in SHARES if run.missing(part)} == made
    assert sum(run.seconds(part) for part in made) == pytest.approx(600)

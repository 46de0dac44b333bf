"""The parts of pretraining, and the phase that rewards objects."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from diffusers import FluxPipeline

from conf.pretrain import PretrainSettings
from pipelines.policy.rule_reward import RulesReward
from pipelines.pretrain.objects import train_on_objects
from pipelines.pretrain.parts import SHARES, Part, Pretraining, copy_shipped_parts
from pipelines.scenes.grammar import is_held_out, parse
from pipelines.scenes.render import lay_out, render


def test_a_reward_for_objects_ignores_relations() -> None:
    rng = np.random.default_rng(0)
    prompt = "a red circle left of a blue square"
    texts = [prompt, "a red circle right of a blue square", "a red circle left of a green square"]
    images = np.stack([render(lay_out(parse(text), rng), rng) for text in texts])
    assert RulesReward(relations=False).score(images, [prompt] * 3).mu.tolist() == pytest.approx([1, 1, 1 / 2])
    assert RulesReward().score(images, [prompt] * 3).mu.tolist() == pytest.approx([1, 2 / 3, 1 / 3])


@pytest.mark.ray
def test_training_on_objects_merges_a_lora_into_the_layers_that_read_the_prompt(
    ray_cluster: None, pipeline: FluxPipeline, tmp_path: Path
) -> None:
    before = {name: weight.clone() for name, weight in pipeline.transformer.state_dict().items()}
    after = train_on_objects(pipeline, tmp_path, 1, 0, lambda line: None).state_dict()
    changed = {name.split(".", 2)[-1] for name, weight in before.items() if not torch.equal(weight, after[name])}
    assert before.keys() == after.keys()
    assert {"attn.to_q.weight", "attn.to_add_out.weight", "ff_context.net.2.weight"} <= changed
    assert not {"attn.to_v.weight", "ff.net.2.weight", "proj_mlp.weight", "proj_out.weight"} & changed
    texts = [json.loads(line)["text"] for line in (tmp_path / "prompts.jsonl").read_text().splitlines()]
    assert texts
    assert not any(is_held_out(parse(text).relations) for text in texts)


@pytest.mark.parametrize(
    ("from_shipped", "trained"),
    [("flux", {"flux", "decoder", "mislabelled", "objects"}), ("vlm", {"vlm"}), ("none", set(SHARES))],
)
def test_the_trained_parts_divide_all_of_the_time(
    from_shipped: Literal["none", "flux", "vlm"], trained: set[str], tmp_path: Path
) -> None:
    settings = PretrainSettings(out=str(tmp_path), minutes=10, from_shipped=from_shipped)
    run = Pretraining(settings, lambda line: None)
    copy_shipped_parts(run)
    missing: list[Part] = [part for part in SHARES if run.missing(part)]
    assert set(missing) == trained
    assert sum(run.seconds(part) for part in missing) == pytest.approx(600)

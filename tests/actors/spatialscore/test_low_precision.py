"""In a bfloat16 backbone the LoRA multiplies in bfloat16, and its weights and gradients stay float32."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import torch
from peft.tuners.lora import LoraLayer

from actors.spatialscore import SpatialScoreConfig, build, load
from tests.support.tiny_reward import PROMPTS, perturb_spatialscore


def test_the_lora_computes_in_the_backbones_dtype_with_float32_weights(
    vlm_dir: Path, images: np.ndarray, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model = build(SpatialScoreConfig(str(vlm_dir), 4096, dtype="bfloat16"), gradient_checkpointing=True)
    perturb_spatialscore(model, 0.02)
    layers = [module for module in model.backbone.modules() if isinstance(module, LoraLayer)]
    seen: set[torch.dtype] = set()
    for layer in layers:
        layer.lora_A["default"].register_forward_hook(lambda _module, _input, output: seen.add(output.dtype))
    batch = model.processor(images[:3], PROMPTS)
    mu, _ = model.train()(batch)
    mu.sum().backward()
    assert seen == {torch.bfloat16}
    assert {parameter.dtype for parameter in model.trainable().values()} == {torch.float32}
    assert {parameter.grad.dtype for parameter in model.trainable().values() if parameter.grad is not None} == {
        torch.float32
    }
    for layer in layers:  # what PEFT does by itself: inputs cast to float32, and float32 products
        layer.cast_input_dtype_enabled = True
    config, model.config = model.config, dataclasses.replace(model.config, dtype="float32")  # no autocast
    with torch.no_grad():
        plain, _ = model.eval()(batch)
    model.config = config
    assert seen == {torch.bfloat16, torch.float32}
    assert (plain - mu).abs().max() < 0.02 * mu.abs().max() + 0.02
    for layer in layers:
        layer.cast_input_dtype_enabled = False
    model.save_pretrained(tmp_path)
    again = load(tmp_path)
    with torch.inference_mode():
        assert torch.equal(again(batch)[0], model(batch)[0])

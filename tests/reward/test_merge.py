"""`reward merge` says what rounding loses, and refuses a merge that loses too much."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft.tuners.lora import LoraLayer

from actors.spatialscore import SpatialScorer, load
from conf import Settings, UserError
from conf import load as load_settings
from pipelines.common.merge_loss import merge_loss
from pipelines.common.paths import run_paths
from pipelines.reward.merge import write_merged
from tests.support.tiny_reward import save_tiny_vlm, tiny_spatialscore


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose SpatialScore has a bfloat16 backbone and a LoRA that changes weights by a few steps of bfloat16."""
    folder = tmp_path_factory.mktemp("merge")
    save_tiny_vlm(folder / "vlm")
    model = tiny_spatialscore(folder / "vlm")
    model.config = replace(model.config, dtype="bfloat16")
    with torch.no_grad():
        for name, parameter in model.trainable().items():
            if "lora_B" in name:
                parameter.mul_(0.02)
    model.save_pretrained(folder / "reward" / "model")
    return folder


def _settings(run_dir: Path, *overrides: str) -> Settings:
    return load_settings("scenes", [f"run_dir={run_dir}", *overrides])


def test_the_loss_is_the_rounding_relative_to_the_trained_change(run_dir: Path) -> None:
    model = load(run_dir / "reward" / "model")
    model.backbone.float()
    error, change, unmoved, count = 0.0, 0.0, 0, 0
    for module in model.modules():
        if isinstance(module, LoraLayer):
            layer: Any = module
            a, b = layer.lora_A["default"].weight.double(), layer.lora_B["default"].weight.double()
            weight = layer.get_base_layer().weight.double()
            merged = (weight + layer.scaling["default"] * (b @ a)).detach()
            rounded = merged.bfloat16().double()
            error += float((rounded - merged).square().sum())
            change += float((merged - weight).square().sum())
            unmoved += int((rounded == weight).sum())
            count += weight.numel()
    loss = merge_loss(model.backbone, "bfloat16")
    assert loss.lost == pytest.approx((error / change) ** 0.5, rel=1e-3)
    assert loss.unmoved == pytest.approx(unmoved / count, abs=1e-3)
    assert 0.1 < loss.lost < 1 and loss.unmoved > 0.1
    assert merge_loss(model.backbone, "float32").lost < 1e-4


def test_a_bfloat16_merge_that_loses_the_training_is_refused(run_dir: Path) -> None:
    with pytest.raises(UserError, match=r"more than merge\.max_loss=0\.05\. Set merge\.dtype=float32"):
        write_merged(_settings(run_dir, "merge.dtype=bfloat16"))
    assert not run_paths(_settings(run_dir)).reward_merged.exists()


def test_a_float32_merge_gives_the_scores_of_the_separate_lora_in_float32(run_dir: Path) -> None:
    lines: list[str] = []
    merged = write_merged(_settings(run_dir), lines.append)
    assert "merged in float32" in lines[0] and "noise images change by" in lines[0]
    reference = load(run_dir / "reward" / "model")
    reference.backbone.float()
    reference.config = replace(reference.config, dtype="float32")  # or it would compute in bfloat16
    images = np.random.default_rng(1).integers(0, 256, (4, 64, 64, 3), dtype=np.uint8)
    prompts = ["a red circle left of a blue square"] * 4
    scorer = SpatialScorer.from_pretrained(merged)
    assert scorer.model.config.dtype == "float32"
    expected = SpatialScorer(reference).score(images, prompts).mu
    np.testing.assert_allclose(scorer.score(images, prompts).mu, expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(UserError, match="merged already"):
        write_merged(_settings(run_dir, f"serving.model={merged}"))
    allowed = write_merged(_settings(run_dir, "merge.dtype=bfloat16", "merge.max_loss=1"), lines.append)
    assert SpatialScorer.from_pretrained(allowed).model.config.dtype == "bfloat16"
    assert np.abs(SpatialScorer.from_pretrained(allowed).score(images, prompts).mu - expected).max() > 1e-4


def test_a_bfloat16_merge_rounds_each_merged_weight_once(run_dir: Path) -> None:
    """Without a float32 copy of the backbone."""
    source = load(run_dir / "reward" / "model")
    expected: dict[str, torch.Tensor] = {}
    for name, module in source.vlm.named_modules():
        if isinstance(module, LoraLayer):
            layer: Any = module
            a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
            merged = layer.get_base_layer().weight.float() + layer.scaling["default"] * (b @ a)
            expected[f"{name}.weight"] = merged.detach().bfloat16()
    folder = write_merged(_settings(run_dir, "merge.dtype=bfloat16", "merge.max_loss=1"))
    found = load(folder).vlm.state_dict()
    assert len(expected) > 10 and {value.dtype for value in found.values()} == {torch.bfloat16}
    for name, value in expected.items():
        assert torch.equal(found[name], value), name

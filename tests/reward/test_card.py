"""A SpatialScore directory: a separate and a merged LoRA give the same scores, and the model card is complete."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from actors.spatialscore import SpatialScorer, load
from actors.spatialscore.calibration import CALIBRATION_FILE, ScoreCalibration, read_calibration
from actors.spatialscore.card import CARD_FILE, NO_TRAINING_INFO, TrainingInfo, model_card, with_accuracy
from conf import load as load_settings
from pipelines.reward.merge import write_merged
from pipelines.reward.sanity_report import weights_digest
from tests.support.tiny_reward import save_tiny_vlm, tiny_spatialscore

PROMPTS = ("a red circle left of a blue square", "a green triangle above a red circle") * 2


def test_merged_and_separate_directories_give_the_same_scores(tmp_path: Path) -> None:
    """The merged directory needs neither PEFT's files nor the original backbone."""
    save_tiny_vlm(tmp_path / "vlm")
    separate = tmp_path / "reward" / "model"
    tiny_spatialscore(tmp_path / "vlm").save_pretrained(separate)
    (separate / CALIBRATION_FILE).write_text('{"temperature": 0.7, "error": 0.02}')
    merged = write_merged(load_settings("scenes", [f"run_dir={tmp_path}"]))
    assert read_calibration(merged) == ScoreCalibration(0.7, 0.02)
    assert not (merged / "adapter_model.safetensors").exists()
    assert weights_digest(merged) != weights_digest(separate)
    images = np.random.default_rng(0).integers(0, 256, (4, 64, 64, 3), dtype=np.uint8)
    expected = SpatialScorer.from_pretrained(separate, merge=False).score(images=images, prompts=PROMPTS)
    (tmp_path / "vlm").rename(tmp_path / "elsewhere")
    merged_scores = SpatialScorer.from_pretrained(merged).score(images=images, prompts=PROMPTS)
    np.testing.assert_allclose(merged_scores.mu, expected.mu, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(merged_scores.sigma, expected.sigma, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="merged into its backbone"):
        load(merged, trainable=True)


def test_the_card_shows_the_training_and_no_local_path(tmp_path: Path) -> None:
    save_tiny_vlm(tmp_path / "vlm")
    model = tiny_spatialscore(tmp_path / "vlm")
    model.save_pretrained(tmp_path / "model", include_backbone=True, training=TrainingInfo("bt", 8000, 500))
    card = (tmp_path / "model" / CARD_FILE).read_text()
    small = "a small model of one renderer. Its tokenizer has"
    assert small in card and small not in model_card(model.config, NO_TRAINING_INFO, tokens=151_665)
    assert card.startswith("---\nlicense: apache-2.0\n")
    for fact in ("vlm, float32", "rank 32, alpha 64, separate", "`bt`", "8000 pairs, 500 optimizer steps"):
        assert fact in card
    measured = with_accuracy(with_accuracy(card, [("all pairs", "97.0%")]), [("all pairs", "98.1%")])
    assert "not been measured" in card
    assert "98.1%" in measured
    assert "97.0%" not in measured
    assert "not been measured" not in measured
    assert measured.endswith(card[-160:])
    adapter = json.loads((tmp_path / "model" / "adapter_config.json").read_text())
    assert adapter["base_model_name_or_path"] == "backbone"
    texts = [file for file in (tmp_path / "model").rglob("*") if file.suffix in (".json", ".md")]
    assert not [file for file in texts if str(tmp_path) in file.read_text()]

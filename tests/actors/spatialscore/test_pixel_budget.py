"""The pixel budget holds with the published preprocessor_config.json, whose own bounds are far apart."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from actors.spatialscore import SpatialScore, SpatialScoreConfig, build, load
from tests.support.full_width_vlm import PUBLISHED_PROCESSOR

SIDES = (512, 1024, 2048)


@pytest.fixture(scope="module")
def published(vlm_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny Qwen2.5-VL with the published image processor."""
    path = tmp_path_factory.mktemp("published") / "vlm"
    shutil.copytree(vlm_dir, path)
    (path / "preprocessor_config.json").write_text(json.dumps(PUBLISHED_PROCESSOR))
    return path


def test_images_of_all_sizes_become_256_tokens(published: Path, tmp_path: Path) -> None:
    model = build(SpatialScoreConfig(model=str(published), pixels=200704))
    assert model.processor.image_tokens == 256
    for side in SIDES:
        _, grid = model.processor.patches([np.zeros((side, side, 3), np.uint8)])
        assert int(grid.prod()) // 4 == 256, side
    _, grid = model.processor.patches([np.zeros((1080, 1920, 3), np.uint8)])
    assert 200 < int(grid.prod()) // 4 < 330
    model.save_pretrained(tmp_path)
    assert load(tmp_path).processor.image_tokens == 256


def test_a_processor_with_other_bounds_is_refused(published: Path, model: SpatialScore) -> None:
    native = Qwen2VLImageProcessorPil.from_pretrained(published)
    with pytest.raises(ValueError, match=r"must resize images to spatialscore\.pixels=4096, got bounds \(3136, 12845"):
        SpatialScore(model.config, model.vlm, model.tokenizer, native)
    with pytest.raises(ValueError, match=r"pixels=784, got bounds \(4096, 4096\)"):
        SpatialScore(
            dataclasses.replace(model.config, pixels=784),
            model.vlm,
            model.tokenizer,
            model.processor.image_processor,
        )

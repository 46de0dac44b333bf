"""Generators of photographs: the real pipeline classes with tiny random weights, alone and in a whole build."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow.dataset as ds
import pytest
import torch

from actors.images import decode_image
from conf import SettingsError, load
from conf.generators import DiffusersSettings
from pipelines.preferences.build import build_preferences
from pipelines.preferences.dataset.shards import plan_shards
from pipelines.preferences.roles.checked_images import ImageRequest
from pipelines.preferences.roles.generators import DiffusersGenerator
from tests.support.tiny_generators import save_random_hunyuan, save_random_qwen

SMALL = {"height": 64, "width": 64, "denoise_steps": 2, "dtype": "float32", "batch": 4, "threads": 1, "gpus": 0.0}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {
        "qwen_image": save_random_qwen(folder / "qwen"),
        "hunyuan_image": save_random_hunyuan(folder / "hunyuan"),
    }


@pytest.mark.parametrize("generator", ["qwen_image", "hunyuan_image"])
def test_text_and_seed_determine_an_image_in_every_batch(
    generator: Literal["qwen_image", "hunyuan_image"], models: dict[str, Path]
) -> None:
    settings = DiffusersSettings(
        str(models[generator]), height=64, width=64, denoise_steps=2, dtype="float32", threads=1, gpus=0.0
    )
    model = DiffusersGenerator(generator, settings, torch.device("cpu"))
    requests = [ImageRequest(text, seed) for seed in (3, 4) for text in ("a red circle", "a blue square")]
    images = model.draw(requests)
    assert [(image.generator, image.seed) for image in images] == [(generator, request.seed) for request in requests]
    assert all(image.pixels.shape == (64, 64, 3) and image.pixels.dtype == np.uint8 for image in images)
    assert (images[0].pixels != images[1].pixels).any(), "another prompt must give another image"
    assert (images[0].pixels != images[2].pixels).any(), "another seed must give another image"
    (alone,) = model.draw(requests[3:])
    difference = np.abs(alone.pixels.astype(int) - images[3].pixels)
    assert difference.max() <= 2, "another batch may change rounding only"


@pytest.mark.ray
def test_several_generators_make_one_dataset_that_waits_for_annotators(
    ray_cluster: None, models: dict[str, Path], tmp_path: Path
) -> None:
    sizes = [f"{name}.{key}={value}" for name in models for key, value in {**SMALL, "cpus": 0.1}.items()]
    settings = load(
        "scenes",
        [
            f"run_dir={tmp_path}",
            "preferences.pairs=12",
            "preferences.shard_rows=4",
            "preferences.corrupted_fraction=0",
            "preferences.generated_fraction=0",
            "preferences.reviewer=annotators",
            "preferences.generators.qwen_image=1",
            "preferences.generators.hunyuan_image=1",
            *(f"{name}.model={path}" for name, path in models.items()),
            *sizes,
        ],
    )
    result = build_preferences(settings)
    rows = ds.dataset(result.directory, format="parquet").to_table().sort_by("pair_id").to_pylist()
    assert [row["generator"] for row in rows] == ["scenes-renderer"] * 4 + ["qwen_image"] * 4 + ["hunyuan_image"] * 4
    assert all(row["review"]["status"] == "pending" for row in rows)
    assert all(decode_image(row["image_l"]["bytes"]).shape == (64, 64, 3) for row in rows)


def test_every_shard_has_one_generator() -> None:
    settings = load("flux_dev", ["preferences.pairs=80000"]).preferences
    shards = plan_shards(settings)
    assert [shard.start for shard in shards[1:]] == [shard.stop for shard in shards[:-1]] and shards[-1].stop == 80000
    rows = {
        name: sum(s.stop - s.start for s in shards if s.generator == name) for name in {s.generator for s in shards}
    }
    assert rows == {"qwen_image": 26667, "hunyuan_image": 26666, "seedream": 26667}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("preferences.generators.renderer=0", "needs a weight above 0"),
        ("preferences.generators.seedream=1", "set both to 0"),
        ("qwen_image.offload=modell", "did you mean model?"),
        ("preferences.writer=chatt", "did you mean chat?"),
    ],
)
def test_invalid_roles_are_refused(override: str, message: str) -> None:
    with pytest.raises(SettingsError) as refused:
        load("scenes", [override])
    assert message in str(refused.value)

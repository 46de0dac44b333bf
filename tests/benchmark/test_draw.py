"""Images of benchmarks by base and policy on Ray: the same noise, the same bytes after an interruption."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from actors.images import decode_image
from actors.policy.flux import FluxPolicy
from actors.policy.lora import save_lora
from actors.policy.plan import SamplingPlan
from actors.policy.sampler import sample
from conf import Settings, SettingsError, load
from pipelines.benchmark.dpg import Dpg
from pipelines.benchmark.draw import draw
from pipelines.benchmark.image_record import RECORD
from pipelines.benchmark.items import BenchmarkItem
from pipelines.benchmark.work import Work, files_of, image_seed
from pipelines.common.paths import run_paths
from tests.support.tiny_flux import save_random_flux

pytestmark = pytest.mark.ray
TEXTS = ("a red circle left of a blue square", "a green square above a red circle", "a blue circle below a red square")
WORK = Work(Dpg(), Path(), tuple(BenchmarkItem(f"item{i}", text, (), 2) for i, text in enumerate(TEXTS)))


@pytest.fixture(scope="module")
def settings(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A run with an exported LoRA, before its images are drawn."""
    folder = tmp_path_factory.mktemp("drawn")
    overrides = [
        f"run_dir={folder / 'run'}",
        f"flux.model={save_random_flux(folder / 'flux')}",
        "flux.lora_rank=4",
        "policy.rollout.max_actors=1",
        "benchmark.denoise_steps=2",
        "benchmark.batch=4",
        "benchmark.height=32",
        "benchmark.width=48",
        "benchmark.judge=endpoint",
    ]
    settings = load("scenes", overrides)
    policy = fresh_policy(settings)
    with torch.no_grad():
        for parameter in policy.trainable().values():
            parameter.add_(0.3 * torch.randn_like(parameter))
    save_lora(policy.lora_state(), settings.flux, run_paths(settings).export)
    return settings


def fresh_policy(settings: Settings) -> FluxPolicy:
    """The base at the benchmark's size, with a LoRA that changes nothing."""
    torch.manual_seed(0)
    return FluxPolicy.from_pretrained(settings.flux.model, replace(settings.flux, height=32, width=48))


def files(settings: Settings, side: str) -> dict[str, bytes]:
    """Name and content of the images of a side."""
    return {path.name: path.read_bytes() for path in run_paths(settings).benchmark_images("dpg", side).glob("*.png")}


def quiet(_: str) -> None:
    """Takes lines of progress."""


@pytest.fixture(scope="module")
def drawn(settings: Settings) -> dict[str, dict[str, bytes]]:
    """Files by side after the first call."""
    assert draw(settings, [WORK], quiet).drawn == 12
    return {side: files(settings, side) for side in ("base", "policy")}


def test_images_are_the_plain_sampler_s_at_the_benchmark_s_size(
    settings: Settings, drawn: dict[str, dict[str, bytes]]
) -> None:
    policy, images = fresh_policy(settings), files_of(WORK)
    seeds = [image_seed(settings, "dpg", item.id, image) for item, image, _ in images]
    conditioning = policy.encode([item.prompt for item, _, _ in images])
    expected = policy.decode(sample(policy, conditioning, seeds, SamplingPlan(denoise_steps=2)).latents)
    found = np.stack([decode_image(drawn["base"][name]) for _, _, name in images])
    assert found.shape == (6, 32, 48, 3) and len(set(seeds)) == 6
    assert np.abs(found.astype(int) - expected).max() <= 1
    tuned = np.stack([decode_image(drawn["policy"][name]) for _, _, name in images])
    assert np.abs(tuned.astype(int) - found).mean() > 1


def test_an_interrupted_call_continues_with_the_same_bytes(
    settings: Settings, drawn: dict[str, dict[str, bytes]]
) -> None:
    assert draw(settings, [WORK], quiet).drawn == 0
    folder = run_paths(settings).benchmark_images("dpg", "policy")
    (folder / "item1_1.png").unlink()
    assert draw(settings, [WORK], quiet).drawn == 4, "the batch of the missing image is sampled as a whole"
    assert {side: files(settings, side) for side in drawn} == drawn


def test_images_of_other_settings_are_kept_aside_and_come_back(
    settings: Settings, drawn: dict[str, dict[str, bytes]]
) -> None:
    lines: list[str] = []
    base_only = replace(settings.benchmark, sides="base", denoise_steps=1)
    other = replace(settings, benchmark=base_only)
    assert draw(other, [WORK], lines.append).drawn == 6
    assert files(other, "base") != drawn["base"] and any("denoise_steps 2 instead of 1" in line for line in lines)
    assert draw(settings, [WORK], quiet).drawn == 0
    assert files(settings, "base") == drawn["base"]


def test_an_item_with_another_prompt_is_drawn_again(settings: Settings, drawn: dict[str, dict[str, bytes]]) -> None:
    first = replace(WORK.items[0], prompt="a green circle left of a red square")
    changed = replace(WORK, items=(first, *WORK.items[1:]))
    draw(replace(settings, benchmark=replace(settings.benchmark, sides="base")), [changed], quiet)
    now = files(settings, "base")
    assert {name for name in now if now[name] != drawn["base"][name]} >= {"item0_0.png", "item0_1.png"}
    assert now["item2_1.png"] == drawn["base"]["item2_1.png"]
    record = json.loads((run_paths(settings).benchmark_images("dpg", "base") / RECORD).read_text())
    assert record["seed"] == 3407 and record["adapter"] == "" and len(record["prompts"]) == 3


def test_a_prompt_that_the_model_cannot_read_whole_is_refused(settings: Settings) -> None:
    long = replace(WORK, items=(replace(WORK.items[0], prompt="a red circle left of a blue square " * 9),))
    with pytest.raises(SettingsError, match=r"benchmark dpg: a text must have at most flux.max_sequence_length=24"):
        draw(settings, [long], quiet)

"""SpatialScore at full width: two layers of Qwen2.5-VL-7B from training to serving and merging."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from actors.spatialscore import SpatialScoreConfig, SpatialScorer, build, load
from actors.workers.reward import ScoreReplica
from conf.load import load as load_settings
from conf.settings import Settings
from pipelines.reward.data import Pair
from pipelines.reward.fit import RewardFitter, restore
from pipelines.reward.sanity_reference import check_forward, check_preprocessing
from pipelines.reward.sanity_report import SanityCheck
from pipelines.reward.served_model import model_config
from pipelines.reward.weight_checks import check_lora_trained, check_reload, check_reward_token
from tests.support.full_width_vlm import save_full_width_vlm

MOST_GIB = 10.0
PROMPT = "a red circle left of a blue square"


@pytest.mark.slow
def test_two_layers_at_full_width_are_trained_resumed_exported_checked_served_and_merged(tmp_path: Path) -> None:
    """The preset flux_dev with another backbone and one pair a step: bfloat16, checkpointing, 448 x 448, `sampled`."""
    _reset_peak_memory()
    save_full_width_vlm(tmp_path / "vlm", layers=2)
    settings = load_settings(
        "flux_dev",
        [f"spatialscore.model={tmp_path / 'vlm'}", "reward.batch_size=1", "reward.workers=1", "reward.lr=1e-3",
         "reward.engine=torch", "reward.use_gpu=false", "reward.sigma_draws=10", "spatialscore.lora_rank=8"],
    )  # fmt: skip
    config = model_config(settings)
    assert (config.dtype, config.pixels) == ("bfloat16", 200704)
    images = np.random.default_rng(0).integers(0, 256, (4, 448, 448, 3), dtype=np.uint8)
    pairs = [Pair(str(n), PROMPT, None, images[2 * n], images[2 * n + 1], "perturbed", 1) for n in range(2)]

    fitter = _fitter(config, settings)
    assert fitter.model.processor.image_tokens == 256
    assert fitter.model.vlm.get_input_embeddings().weight.shape == (152064, 3584)
    first = fitter.optimizer_step(pairs[:1], 0, 4)
    saved = {"trained": fitter.state_dict(), "engine": fitter.engine.state_dict()}
    torch.save(saved, tmp_path / "fit.pt")
    second = fitter.optimizer_step(pairs[1:], 1, 4)
    assert np.isfinite([first.loss, second.loss, first.grad_norm]).all() and second.loss != first.loss
    trained = fitter.state_dict()
    assert {value.dtype for value in trained.values()} == {torch.float32}
    del fitter

    saved = torch.load(tmp_path / "fit.pt", weights_only=True)
    again = _fitter(config, settings, saved["trained"])
    again.engine.load_state_dict(saved["engine"])
    assert again.optimizer_step(pairs[1:], 1, 4) == second
    for name, value in again.state_dict().items():
        assert torch.equal(value, trained[name]), name
    again.model.eval().save_pretrained(tmp_path / "model")
    scores = SpatialScorer(again.model).score(images=images[:2], prompts=[PROMPT] * 2).mu
    del again, saved

    loaded = SpatialScorer(load(tmp_path / "model"))
    assert np.array_equal(loaded.score(images=images[:2], prompts=[PROMPT] * 2).mu, scores)
    assert scores.std() > 0
    for check in _checks(loaded, str(tmp_path / "model"), pairs):
        assert check.passed, check
    serving = replace(settings.serving, gpus=0.0, batch_images=2, threads=torch.get_num_threads())
    replica = ScoreReplica(str(tmp_path / "model"), serving)
    served = asyncio.run(replica.score(images[:2], [PROMPT] * 2))  # alone, as a group of a policy run
    assert np.array_equal(served.mu, scores)
    del replica
    merged = SpatialScorer(loaded.model.merge())
    change = np.abs(merged.score(images=images[:2], prompts=[PROMPT] * 2).mu - scores).max()
    assert 0 < change < 0.25 * np.abs(scores).max() + 0.05, "rounding of the merged weights"
    assert _peak_memory_gib() < MOST_GIB


def _checks(scorer: SpatialScorer, model: str, pairs: list[Pair]) -> Iterator[SanityCheck]:
    """The sanity checks that a model must pass whatever it has learned. One row each, which takes seconds."""
    yield check_preprocessing(scorer, pairs)
    yield check_forward(scorer, pairs, rows=1)
    yield check_reload(scorer, model, pairs[:1])
    yield check_reward_token(scorer, model)
    yield check_lora_trained(model)


def _reset_peak_memory() -> None:
    """Earlier tests of this process do not count."""
    Path("/proc/self/clear_refs").write_text("5")


def _peak_memory_gib() -> float:
    """Peak resident memory of this process since `_reset_peak_memory`."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) / 2**20


def _fitter(
    config: SpatialScoreConfig, settings: Settings, trained: dict[str, torch.Tensor] | None = None
) -> RewardFitter:
    torch.manual_seed(0)
    model = build(config, gradient_checkpointing=True)
    return RewardFitter(restore(model, trained) if trained else model, settings.reward, torch.device("cpu"))

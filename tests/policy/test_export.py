"""The export: a model card that is true, and a whole model that a plain pipeline loads."""

from __future__ import annotations

import io
import json
import math
import os
import pickle
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import FluxPipeline
from PIL import Image
from safetensors.torch import load_file

from actors.policy.flux import FluxPolicy
from actors.types import PolicyWeights
from conf import Settings, UserError, load
from conf.flux import FluxSettings
from conf.rules import Dtype
from pipelines.common.paths import run_paths
from pipelines.policy.checkpoint import run_checkpoints
from pipelines.policy.export import export_lora, export_newest
from pipelines.policy.fingerprint import flux_location
from pipelines.policy.metrics import EvaluationRow
from pipelines.policy.model_card import model_card
from pipelines.policy.progress import ProgressPrinter
from pipelines.policy.versions import ExportRecord, read_export_record
from tests.support.policy_checkpoint import write_checkpoint_of
from tests.support.tiny_flux import perturb_lora


def generate(model: Path, lora: Path | None = None) -> np.ndarray:
    """Returns an image by diffusers' own pipeline."""
    pipeline: Any = FluxPipeline.from_pretrained(model)
    pipeline.set_progress_bar_config(disable=True)
    if lora:
        pipeline.load_lora_weights(lora)
    images = pipeline(
        "a red circle left of a blue square", height=64, width=64, num_inference_steps=6, guidance_scale=3.5,
        max_sequence_length=24, generator=torch.Generator().manual_seed(0),
    ).images  # fmt: skip
    return np.array(images[0]).astype(int)


def test_the_merged_model_generates_what_base_and_lora_generate(
    policy: FluxPolicy, flux_directory: Path, settings_of: Callable[..., Settings], tmp_path: Path
) -> None:
    perturb_lora(policy, 0.1)
    lora = {key: value.numpy() for key, value in policy.lora_state().items()}
    settings = settings_of(tmp_path, "export.merged=true")
    export = export_lora(PolicyWeights(3, lora), settings)
    merged = export.with_name("merged")
    with_lora = generate(flux_directory, export)
    np.testing.assert_allclose(generate(merged), with_lora, atol=1)
    assert np.abs(generate(flux_directory) - with_lora).max() > 8
    assert 'FluxPipeline.from_pretrained("."' in (merged / "README.md").read_text()
    assert 'pipeline.load_lora_weights(".")' in (export / "README.md").read_text()
    assert read_export_record(export) == ExportRecord(3, moving_average=True)
    lossy = settings_of(tmp_path, "export.merged=true", "merge.dtype=bfloat16", "merge.max_loss=0.001")
    with pytest.raises(UserError, match=r"more than merge\.max_loss=0\.001\. Set merge\.dtype=float32"):
        export_lora(PolicyWeights(3, lora), lossy)
    export_lora(PolicyWeights(3, lora), settings)  # again, over the old one
    assert sorted(path.name for path in export.parent.iterdir()) == ["export", "merged"]


def test_a_bfloat16_base_is_merged_without_a_copy_in_float32_and_rounded_once(
    policy: FluxPolicy, flux_directory: Path, settings_of: Callable[..., Settings], tmp_path: Path
) -> None:
    """diffusers itself rounds the LoRA to bfloat16 when it loads it."""
    base = tmp_path / "base"
    FluxPipeline.from_pretrained(flux_directory, torch_dtype=torch.bfloat16).save_pretrained(base)
    perturb_lora(policy, 0.1)
    lora = {key: value.numpy() for key, value in policy.lora_state().items()}
    settings = settings_of(tmp_path, f"flux.model={base}", "export.merged=true", "merge.max_loss=1")
    found: dict[Dtype, dict[str, torch.Tensor]] = {}
    dtypes: tuple[Dtype, ...] = ("float32", "bfloat16")
    for dtype in dtypes:
        export = export_lora(PolicyWeights(3, lora), replace(settings, merge=replace(settings.merge, dtype=dtype)))
        file = export.with_name("merged") / "transformer" / "diffusion_pytorch_model.safetensors"
        found[dtype] = load_file(file)
    assert {value.dtype for value in found["bfloat16"].values()} == {torch.bfloat16}
    for name, value in found["float32"].items():
        assert torch.equal(found["bfloat16"][name], value.bfloat16()), name


def test_the_card_has_settings_and_results_of_its_version(
    settings_of: Callable[..., Settings], flux_directory: Path, tmp_path: Path
) -> None:
    settings = settings_of(tmp_path, "policy.algorithm.top_k=0")
    card = model_card(settings, str(flux_directory), 20, merged=False)
    assert "No held-out evaluation" in card and "group_size: 4" in card and "all of them trained on" in card
    rows = [
        asdict(EvaluationRow(iteration, 1.0, 1.0, 96, accuracy, 0.0, 0.9, 0.8, 0.0, 0.0, accuracy * 4, 1.0, 2.0))
        for iteration, accuracy in ((0, 0.5), (20, 0.75), (40, 1.0))
    ]
    lines = [json.dumps(row | {"relation_accuracy_long": None}) + "\n" for row in rows]  # there were no long prompts
    run_paths(settings).policy.mkdir()
    run_paths(settings).evaluations.write_text("".join(lines))
    card = model_card(settings, str(flux_directory), 20, merged=False)
    assert "| correct relations, short prompts | 50.0% | 75.0% |" in card  # of version 20, not of 40
    assert "| reward, all prompts | +2.00 | +3.00 |" in card and "correct relations, long prompts" not in card
    assert "policy version 20 (moving average) of 4 planned" in card and "measured on" not in card
    last = replace(settings, evaluation=replace(settings.evaluation, use_ema=False))
    card = model_card(last, str(flux_directory), 20, merged=False)
    assert "policy version 20 of 4 planned" in card and "for both; measured on the moving average, while" in card
    assert "was the best of them" not in card
    run_paths(settings).evaluations.write_text(
        "".join(lines[:2]) + lines[0].replace('"iteration": 0', '"iteration": 30')
    )
    card = model_card(settings, str(flux_directory), 30, merged=False)
    assert "| version 0 | version 30 |" in card and "Version 20 was the best of them." in card


@pytest.mark.parametrize("merged", [False, True])
def test_the_card_names_no_path_of_this_machine(
    settings_of: Callable[..., Settings],
    flux_directory: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    merged: bool,
) -> None:
    settings = settings_of(tmp_path, f"detector.model={tmp_path / 'owl'}", "rewards.detector=1")
    card = model_card(settings, str(flux_directory), 1, merged=merged)
    assert not re.search(r"(?<![\w.])/\w", card.replace("https://", "")), "an absolute path"
    assert "base_model" not in card
    assert f"path/to/{flux_directory.name}" in card or merged
    assert "prompts: prompts.jsonl" in card and "the detector owl with" in card
    monkeypatch.setattr("pipelines.policy.model_card.family_of", lambda base: FluxPolicy)  # there is no hub here
    on_the_hub = model_card(settings, "black-forest-labs/FLUX.1-dev", 1, merged=merged)
    assert "base_model: black-forest-labs/FLUX.1-dev\n" in on_the_hub
    assert ('from_pretrained("black-forest-labs/FLUX.1-dev"' in on_the_hub) != merged


@pytest.mark.slow
@pytest.mark.parametrize("merged", [False, True])
def test_the_snippet_of_the_card_runs_after_the_folder_moved(tmp_path: Path, merged: bool) -> None:
    """With the base that is shipped, and in one denoise step to save time."""
    settings = load("scenes", [f"run_dir={tmp_path / 'run'}", "export.merged=true", "evaluation.denoise_steps=1"])
    policy = FluxPolicy.from_pretrained(flux_location(settings), settings.flux)
    lora = {key: value.numpy() for key, value in policy.lora_state().items()}
    export = export_lora(PolicyWeights(3, lora), settings)
    moved = (export.with_name("merged") if merged else export).rename(tmp_path / "moved")
    snippet = (moved / "README.md").read_text().split("```python\n")[1].split("```")[0]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "HF_HUB_OFFLINE": "1"}
    ended = subprocess.run(
        [sys.executable, "-c", snippet], cwd=moved, env=environment, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    assert Image.open(moved / "image.png").size == (64, 64)


@pytest.mark.parametrize(
    ("overrides", "trained", "score"),
    [
        ((), "against SpatialScore with top-k GRPO: policy version 3 ", "SpatialScore"),
        (("policy.algorithm.top_k=0",), "against SpatialScore with GRPO: policy", "SpatialScore"),
        (
            ("rewards.spatialscore=0", "rewards.rules=1"),
            "against the exact checker of scenes with top-k GRPO",
            "reward",
        ),
        (("rewards.judge=0.5", "judge.model=m"), "against SpatialScore + 0.5 × the judge m with top-k", "reward"),
        (
            ("rewards.spatialscore=2", "rewards.detector=1", "detector.model=d"),
            "against 2 × SpatialScore + the detector d with",
            "reward",
        ),
        (("rewards.spatialscore=2",), "against 2 × SpatialScore with", "reward"),
    ],
)
def test_card_and_progress_line_name_the_rewards(
    settings_of: Callable[..., Settings],
    flux_directory: Path,
    tmp_path: Path,
    overrides: tuple[str, ...],
    trained: str,
    score: str,
) -> None:
    settings = settings_of(tmp_path, *overrides)
    card = model_card(settings, str(flux_directory), 3, merged=False)
    assert trained in card
    assert ("grpo, spatialscore]" in card) == settings.trains_on("spatialscore")
    messages: list[str] = []
    nan = math.nan
    row = EvaluationRow(3, 60.0, 2.0, 8, nan, nan, nan, nan, nan, nan, 1.5, 1.0, 2.0)
    ProgressPrinter(settings, messages.append).evaluation(row)
    assert messages == [f"evaluation @3: {score} +1.500  (8 images in 2.0 s, after 1:00 min of training)"]


def test_the_card_of_qwen_image_names_its_own_pipeline(
    settings_of: Callable[..., Settings], qwen_image_directory: Path, qwen_image_flux: FluxSettings, tmp_path: Path
) -> None:
    settings = replace(settings_of(tmp_path), flux=qwen_image_flux)
    card = model_card(settings, str(qwen_image_directory), 1, merged=False)
    assert "from diffusers import QwenImagePipeline" in card and f"true_cfg_scale={qwen_image_flux.true_cfg}" in card
    assert "Flux" not in card and "guidance_scale" not in card


def _saved(state: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "content",
    [b"", b"hello", pickle.dumps(Path("x")), _saved([1]), _saved({"version": 1}), _saved({"ema": [1]}),
     _saved({"ema": {"a": "b"}}), _saved({"ema": {}})[:-100]],
    ids=["empty", "text", "pickle", "list", "no LoRA", "a list as LoRA", "a text as weights", "cut off"],
)  # fmt: skip
def test_a_checkpoint_that_is_no_state_of_a_learner_is_damaged(tmp_path: Path, content: bytes) -> None:
    """Its manifest has the right digest."""
    settings = load("scenes", [f"run_dir={tmp_path}", "evaluation.use_ema=true"])
    write_checkpoint_of(run_checkpoints(settings), 7, content)
    with pytest.raises(UserError, match=r"version 7 is damaged \(rank-0\.pt is no state of a learner"):
        export_newest(settings)

"""Stage 4 end to end on Ray, with real classes and random weights."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from actors.images import decode_image
from actors.policy.flux import FluxPolicy
from actors.policy.lora import save_lora
from actors.policy.plan import SamplingPlan
from actors.policy.sampler import sample
from actors.spatialscore import SpatialScorer
from conf import Settings, UserError, load
from pipelines.common.paths import run_paths
from pipelines.evaluation.cases import MODELS, draw_cases
from pipelines.evaluation.images import image_file
from pipelines.evaluation.run import EvaluationResult, evaluate
from pipelines.policy.image_grid import MARGIN, TITLE_LINE
from pipelines.policy.sample import sample_images
from pipelines.policy.versions import RECORD
from tests.support.tiny_flux import save_random_flux
from tests.support.tiny_reward import save_tiny_vlm, tiny_spatialscore

pytestmark = pytest.mark.ray
LORA_NOISE = 0.3
PROMPTS = (
    {"text": "a red circle left of a blue square", "relations": [["red circle", "left of", "blue square"]]},
    {"text": "a green square above a red circle", "relations": [["green square", "above", "red circle"]]},
)


@pytest.fixture(scope="module")
def settings(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A run with a SpatialScore and an exported LoRA, as the earlier stages write them."""
    folder = tmp_path_factory.mktemp("evaluated")
    (folder / "prompts.jsonl").write_text("\n".join(map(json.dumps, PROMPTS)))
    overrides = [
        f"run_dir={folder / 'run'}",
        f"flux.model={save_random_flux(folder / 'flux')}",
        f"policy.held_out_prompts={folder / 'prompts.jsonl'}",
        "flux.lora_rank=4",
        "policy.rollout.max_actors=1",
        "evaluation.denoise_steps=2",
        "evaluation.batch_prompts=1",
    ]
    settings = load("scenes", overrides)
    save_tiny_vlm(folder / "vlm")
    tiny_spatialscore(folder / "vlm").save_pretrained(run_paths(settings).reward_model)
    policy = fresh_policy(settings)
    with torch.no_grad():
        for parameter in policy.trainable().values():
            parameter.add_(LORA_NOISE * torch.randn_like(parameter))
    save_lora(policy.lora_state(), settings.flux, run_paths(settings).export)
    torch.save(policy.lora_state(), folder / "lora.pt")
    return settings


@pytest.fixture(scope="module")
def result(settings: Settings) -> EvaluationResult:
    return evaluate(settings)


@pytest.fixture(scope="module")
def images(settings: Settings, result: EvaluationResult) -> dict[str, np.ndarray]:
    """The saved images by model, uint8 [B, H, W, 3]."""
    paths, cases = run_paths(settings), draw_cases(settings)
    return {
        model: np.stack([decode_image(image_file(paths, model, case).read_bytes()) for case in cases])
        for model in MODELS
    }


def fresh_policy(settings: Settings) -> FluxPolicy:
    """The base with a new LoRA, which changes nothing."""
    torch.manual_seed(0)
    return FluxPolicy.from_pretrained(settings.flux.model, settings.flux)


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_images_are_those_of_base_and_policy(settings: Settings, images: dict[str, np.ndarray]) -> None:
    cases, policy = draw_cases(settings), fresh_policy(settings)
    plan = SamplingPlan.for_evaluation(settings.evaluation)
    conditioning, seeds = policy.encode([case.prompt.text for case in cases]), [case.seed for case in cases]
    expected = policy.decode(sample(policy, conditioning, seeds, plan).latents)
    assert np.abs(images["base"].astype(int) - expected).max() <= 1
    policy.load_lora(torch.load(Path(settings.run_dir).parent / "lora.pt"))
    expected = policy.decode(sample(policy, conditioning, seeds, plan).latents)
    assert np.abs(images["policy"].astype(int) - expected).max() <= 1
    assert np.abs(images["policy"].astype(int) - images["base"]).mean() > 1


def test_scores_are_those_of_the_saved_spatialscore(settings: Settings, images: dict[str, np.ndarray]) -> None:
    paths, texts = run_paths(settings), [case.prompt.text for case in draw_cases(settings)]
    rows, scorer = rows_of(paths.evaluation_results), SpatialScorer.from_pretrained(paths.reward_model)
    for model in MODELS:
        scores = scorer.score(images=images[model], prompts=texts)
        np.testing.assert_allclose([row[model]["score"] for row in rows], scores.mu, rtol=1e-3, atol=1e-4)


def test_records_and_report_cover_all_cases(settings: Settings, result: EvaluationResult) -> None:
    paths, cases = run_paths(settings), draw_cases(settings)
    assert result.images == len(cases) == 4
    assert result.report == paths.evaluation_report
    assert [row["text"] for row in rows_of(paths.evaluation_prompts)] == [case.prompt.text for case in cases]
    tables = json.loads(paths.evaluation_tables.read_text())
    assert tables["images"] == 4
    assert tables["tables"]["scores"][0]["count"] == 4
    assert "SpatialScore" in result.report.read_text()
    assert "SpatialScore, all" in str(result)


def test_a_version_at_another_size_is_evaluated_in_a_folder_of_its_own(
    settings: Settings, result: EvaluationResult
) -> None:
    newest, named = run_paths(settings), run_paths(settings, 7)
    before = newest.evaluation_report.read_bytes()
    shutil.copytree(newest.export, named.export)
    (named.export / RECORD).write_text(json.dumps({"policy_version": 7, "moving_average": True}))
    flux = replace(settings.flux, height=96, width=96)
    evaluated = evaluate(replace(settings, flux=flux, export=replace(settings.export, version="7")))
    assert (evaluated.version, evaluated.report) == (7, newest.evaluation / "version-7" / "report.html")
    assert "(policy version 7)" in str(evaluated)
    assert json.loads(named.evaluation_tables.read_text())["policy_version"] == 7
    for model in MODELS:
        with Image.open(image_file(named, model, draw_cases(settings)[0])) as image:
            assert image.size == (96, 96)
    assert newest.evaluation_report.read_bytes() == before


def test_a_missing_stage_is_named(settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="run `spatialt2i policy train` first"):
        evaluate(replace(settings, run_dir=str(tmp_path)))


def test_a_sample_sheet_shows_base_above_policy(settings: Settings) -> None:
    texts = replace(settings.sample, text=("a red circle left of a blue square", "a blue square"), images=2)
    paths = sample_images(replace(settings, sample=texts))
    assert [path.parent for path in paths] == [run_paths(settings).samples] * 2
    sheet = np.asarray(Image.open(paths[0]).convert("RGB")).astype(int)
    header = 2 * TITLE_LINE + MARGIN
    above, below = sheet[header + 4 :][:256, 64 : 64 + 256], sheet[header + 290 :][:256, 64 : 64 + 256]
    assert sheet.shape == (header + 2 * 286, 64 + 2 * 264, 3)
    assert above.std() > 1
    assert np.abs(above - below).mean() > 1, "the LoRA changes nothing"
    assert (sheet[header + 4 + 256 : header + 286] < 128).any(), "there is a SpatialScore below the image"

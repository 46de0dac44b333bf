"""Stage 4 end to end on Ray, with real classes and random weights."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from actors.policy.flux import FluxPolicy
from actors.policy.lora import save_lora
from actors.policy.plan import SamplingPlan
from actors.policy.sampler import sample
from actors.spatialscore import SpatialScorer
from conf import Settings, load
from pipelines.common.images import decode
from pipelines.evaluation.cases import draw_cases
from pipelines.evaluation.run import evaluate
from pipelines.policy.sample import sample_sheet
from tests.support.tiny_flux import save_random_flux
from tests.support.tiny_reward import save_tiny_vlm, tiny_spatialscore

pytestmark = pytest.mark.ray
LORA_NOISE = 0.3


@pytest.fixture(scope="module")
def settings(ray_cluster, tmp_path_factory) -> Settings:
    """A run whose stages have left a SpatialScore and an exported LoRA."""
    folder = tmp_path_factory.mktemp("evaluated")
    run_dir = folder / "run"
    lines = [
        {"text": "a red circle left of a blue square", "relations": [["red circle", "left of", "blue square"]]},
        {"text": "a green square above a red circle", "relations": [["green square", "above", "red circle"]]},
    ]
    (folder / "prompts.jsonl").write_text("\n".join(map(json.dumps, lines)))
    save_tiny_vlm(folder / "vlm")
    tiny_spatialscore(folder / "vlm").save_pretrained(run_dir / "reward" / "model")
    settings = load("scenes", [
        f"run_dir={run_dir}", f"flux.model={save_random_flux(folder / 'flux')}", "flux.lora_rank=4",
        f"policy.held_out_prompts={folder / 'prompts.jsonl'}", "policy.rollout.max_actors=1", "evaluation.denoise_steps=2",
        "evaluation.batch_prompts=1",
    ])  # fmt: skip
    policy = _policy(settings)
    with torch.no_grad():
        for parameter in policy.trainable().values():
            parameter.add_(LORA_NOISE * torch.randn_like(parameter))
    save_lora(policy.lora_state(), settings.flux, run_dir / "policy" / "export")
    torch.save(policy.lora_state(), folder / "lora.pt")
    return settings


def _policy(settings: Settings) -> FluxPolicy:
    torch.manual_seed(0)
    return FluxPolicy.from_pretrained(settings.flux.model, settings.flux)


def test_pictures_scores_and_page_are_those_of_base_and_policy(settings):
    result = evaluate(settings)
    folder, cases = Path(settings.run_dir) / "evaluation", draw_cases(settings)
    assert result.images == len(cases) == 4 and result.report == folder.absolute() / "report.html"
    drawn = {
        side: np.stack([decode((folder / side / f"{case.name}.png").read_bytes()) for case in cases])
        for side in ("base", "policy")
    }
    policy = _policy(settings)
    plan = SamplingPlan.for_evaluation(settings.evaluation)
    conditioning, seeds = policy.encode([case.prompt.text for case in cases]), [case.seed for case in cases]
    expected = policy.decode(sample(policy, conditioning, seeds, plan).latents)  # a fresh LoRA is the base
    assert np.abs(drawn["base"].astype(int) - expected).max() <= 1
    policy.load_lora(torch.load(folder.parent.parent / "lora.pt"))
    expected = policy.decode(sample(policy, conditioning, seeds, plan).latents)
    assert np.abs(drawn["policy"].astype(int) - expected).max() <= 1
    assert np.abs(drawn["policy"].astype(int) - drawn["base"]).mean() > 1

    rows = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
    scorer = SpatialScorer.from_pretrained(folder.parent / "reward" / "model")
    for side, images in drawn.items():
        scores = scorer.score(images=images, prompts=[case.prompt.text for case in cases])
        np.testing.assert_allclose([row[side]["score"] for row in rows], scores.mu, rtol=1e-3, atol=1e-4)
    assert [json.loads(line)["text"] for line in (folder / "prompts.jsonl").read_text().splitlines()] == [
        case.prompt.text for case in cases
    ]
    report = json.loads((folder / "report.json").read_text())
    assert report["pictures"] == 4 and report["tables"]["scores"][0]["count"] == 4
    assert "SpatialScore" in result.report.read_text() and "SpatialScore, all" in str(result)


def test_a_missing_stage_is_named(settings, tmp_path):
    with pytest.raises(FileNotFoundError, match="run `spatialt2i policy train` first"):
        evaluate(replace(settings, run_dir=str(tmp_path)))


def test_a_text_is_drawn_by_base_and_policy_side_by_side(settings: Settings) -> None:
    wanted = replace(settings, sample=replace(settings.sample, text="a red circle left of a blue square", images=2))
    path = sample_sheet(wanted)
    assert path == Path(settings.run_dir) / "samples" / "a-red-circle-left-of-a-blue-square.png"
    sheet = np.asarray(Image.open(path).convert("RGB")).astype(int)
    above, below = sheet[4 : 4 + 256, 64 : 64 + 256], sheet[290 : 290 + 256, 64 : 64 + 256]
    assert sheet.shape == (2 * 286, 64 + 2 * 264, 3)
    assert np.abs(above - below).mean() > 1 and above.std() > 1  # the LoRA does something, and both are pictures
    with pytest.raises(ValueError, match=r"sample\.text is empty"):
        sample_sheet(settings)

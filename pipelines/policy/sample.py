"""`spatialt2i policy sample "a red circle left of a blue square"`: base and tuned policy side by side."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import torch

from actors.policy.lora import read_lora
from actors.policy.plan import SamplingPlan
from actors.policy.registry import load_policy
from actors.policy.sampler import sample_before_and_after
from actors.spatialscore.scorer import SpatialScorer
from actors.worker_setup import init_worker
from conf.settings import Settings
from pipelines.common.paths import score_folder
from pipelines.common.seeds import group_seeds
from pipelines.policy.fingerprint import flux_location
from pipelines.policy.image_grid import image_grid


def sample_sheet(settings: Settings) -> Path:
    """Draws `sample.text` by the base (upper row) and the exported policy (lower row) from the same noise.

    Under each picture stands its SpatialScore, where the run has a reward model. Writes a PNG sheet and returns its
    path. Raises ValueError without a text, FileNotFoundError without an exported policy.
    """
    own, run_dir = settings.sample, Path(settings.run_dir)
    export = run_dir / "policy" / "export"
    if not own.text.strip():
        raise ValueError('sample.text is empty: spatialt2i policy sample "a red circle left of a blue square"')
    if not export.is_dir():
        raise FileNotFoundError(f"no exported policy at {export}: run `spatialt2i policy train` first")
    rows = _draw(settings, export)
    reward = score_folder(settings)
    captions = [[""] * own.images] * 2
    if reward.is_dir():
        scorer = SpatialScorer.from_pretrained(reward)
        scores = [scorer.score(images=images, prompts=[own.text] * len(images)).mu for images in rows]
        captions = [[f"SpatialScore {mu:+.2f}" for mu in row] for row in scores]
    path = Path(own.out or run_dir / "samples" / f"{re.sub(r'[^a-z0-9]+', '-', own.text.lower()).strip('-')[:80]}.png")
    path.parent.mkdir(parents=True, exist_ok=True)
    image_grid(rows, captions, ("base", "tuned")).save(path)
    return path


def _draw(settings: Settings, export: Path) -> tuple[np.ndarray, np.ndarray]:
    """Pictures uint8 [B, H, W, 3] by the base and by the policy."""
    own = settings.sample
    device = init_worker(settings.policy.learner.threads, 1.0 if torch.cuda.is_available() else 0.0)
    policy = load_policy(flux_location(settings), settings.flux, device)
    policy.load_lora(read_lora(export, settings.flux))
    conditioning = policy.encode([own.text]) * own.images
    seeds = group_seeds(own.seed, 0, 0, own.images)
    return sample_before_and_after(policy, conditioning, seeds, SamplingPlan.for_evaluation(settings.evaluation))

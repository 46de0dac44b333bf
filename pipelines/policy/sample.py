"""`spatialt2i policy sample "a red circle left of a blue square"`: images by the base and by the trained policy."""

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
from conf import SettingsError, UserError
from conf.settings import Settings
from pipelines.common.paths import run_paths, spatialscore_folder
from pipelines.common.seeds import group_seeds
from pipelines.policy.fingerprint import flux_location
from pipelines.policy.image_grid import image_grid


def sample_images(settings: Settings) -> Path:
    """Generates images of `sample.text` by the base (upper row) and the exported policy (lower row), from equal noise.

    Writes them to a PNG file, with the SpatialScore of each if the run has a reward model, and returns its path.
    Raises UserError if there is no text or no exported policy.
    """
    cfg, paths = settings.sample, run_paths(settings)
    if not any(text.strip() for text in cfg.text):
        raise SettingsError('sample.text must not be empty, e.g. spatialt2i policy sample "a cat left of a dog"')
    if not paths.export.is_dir():
        raise UserError(f"no exported policy at {paths.export}: run `spatialt2i policy train` first")
    rows = _generate(settings, paths.export)
    reward = spatialscore_folder(settings)
    captions = [[""] * cfg.images] * 2
    if reward.is_dir():
        scorer = SpatialScorer.from_pretrained(reward)
        scores = [scorer.score(images=images, prompts=[cfg.text] * len(images)).mu for images in rows]
        captions = [[f"SpatialScore {mu:+.2f}" for mu in row] for row in scores]
    name = re.sub(r"[^a-z0-9]+", "-", cfg.text.lower()).strip("-")[:80]
    path = Path(cfg.out) if cfg.out else paths.samples / f"{name}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    image_grid(rows, captions, ("base", "tuned")).save(path)
    return path


def _generate(settings: Settings, export: Path) -> tuple[np.ndarray, np.ndarray]:
    """Returns images uint8 [B, H, W, 3] by the base and by the policy."""
    cfg = settings.sample
    device = init_worker(settings.policy.learner.threads, 1.0 if torch.cuda.is_available() else 0.0)
    policy = load_policy(flux_location(settings), settings.flux, device)
    policy.load_lora(read_lora(export, settings.flux))
    conditioning = policy.encode([cfg.text]) * cfg.images
    seeds = group_seeds(cfg.seed, 0, 0, cfg.images)
    return sample_before_and_after(policy, conditioning, seeds, SamplingPlan.for_evaluation(settings.evaluation))

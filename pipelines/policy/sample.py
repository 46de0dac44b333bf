"""`spatialt2i policy sample "a red circle left of a blue square"`: base and tuned policy side by side."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw

from actors.flux.adapter import read_lora
from actors.flux.model import FluxPolicy
from actors.flux.plan import SamplingPlan
from actors.flux.sampler import sample
from actors.process import set_up_process
from actors.spatialscore.scorer import SpatialScorer
from conf.settings import Settings
from pipelines.policy.export import flux_location
from pipelines.policy.seeds import group_seeds

TILE = 224  # least pixels a side of a picture on the sheet
CAPTION = 22  # pixels
MARGIN = 8


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
    reward = Path(settings.pool.model or run_dir / "reward" / "model")
    captions = [[""] * own.images] * 2
    if reward.is_dir():
        scorer = SpatialScorer.from_pretrained(reward)
        scores = [scorer.score(images=images, prompts=[own.text] * len(images)).mu for images in rows]
        captions = [[f"SpatialScore {mu:+.2f}" for mu in row] for row in scores]
    path = Path(own.out or run_dir / "samples" / f"{re.sub(r'[^a-z0-9]+', '-', own.text.lower()).strip('-')[:80]}.png")
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet(rows, captions, ("base", "tuned")).save(path)
    return path


def _draw(settings: Settings, export: Path) -> list[np.ndarray]:
    """Pictures uint8 [B, H, W, 3] by the base and by the policy."""
    own = settings.sample
    device = set_up_process(settings.policy.learner_threads, 1.0 if torch.cuda.is_available() else 0.0)
    policy = FluxPolicy.from_pretrained(flux_location(settings), settings.flux, device)
    policy.load_lora(read_lora(export, settings.flux))
    conditioning = policy.encode([own.text]) * own.images
    seeds = group_seeds(own.seed, 0, 0, own.images)
    plan = SamplingPlan.for_evaluation(settings.evaluation)
    with policy.base():
        before = policy.decode(sample(policy, conditioning, seeds, plan).latents)
    return [before, policy.decode(sample(policy, conditioning, seeds, plan).latents)]


def sheet(rows: Sequence[np.ndarray], captions: Sequence[Sequence[str]], names: Sequence[str]) -> Image.Image:
    """Rows of pictures, uint8 [B, H, W, 3] each, with a caption under every picture and a name before every row."""
    scale = max(1, -(-TILE // rows[0].shape[2]))
    height, width = rows[0].shape[1] * scale, rows[0].shape[2] * scale
    canvas = Image.new("RGB", (64 + len(rows[0]) * (width + MARGIN), len(rows) * (height + CAPTION + MARGIN)), "white")
    write = ImageDraw.Draw(canvas)
    for r, (images, said, name) in enumerate(zip(rows, captions, names, strict=True)):
        top = MARGIN // 2 + r * (height + CAPTION + MARGIN)
        write.text((8, top + height // 2 - 8), name, fill="black", font_size=16)
        for c, (image, caption) in enumerate(zip(images, said, strict=True)):
            left = 64 + c * (width + MARGIN)
            picture = Image.fromarray(image).resize((width, height), Image.Resampling.LANCZOS)
            canvas.paste(picture, (left, top))
            write.text((left, top + height + 3), caption, fill="black", font_size=13)
    return canvas

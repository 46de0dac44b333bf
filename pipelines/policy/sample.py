"""`spatialt2i policy sample "a red circle left of a blue square"`: images by the base and by the trained policy."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL.PngImagePlugin import PngInfo

from actors.policy.lora import read_lora
from actors.policy.plan import SamplingPlan
from actors.policy.registry import load_policy
from actors.policy.sampler import sample_before_and_after
from actors.spatialscore.scorer import SpatialScorer
from actors.worker_setup import init_worker
from conf.settings import Settings
from pipelines.common.paths import RunPaths, spatialscore_folder
from pipelines.common.seeds import group_seeds
from pipelines.common.terminal import print_warning
from pipelines.common.vocabulary import vocabulary_warning
from pipelines.policy.base_model_check import check_text_lengths
from pipelines.policy.export import provide_export
from pipelines.policy.fingerprint import flux_location
from pipelines.policy.image_grid import image_grid
from pipelines.policy.sample_texts import check_texts
from pipelines.policy.versions import choose_version, read_export_record
from pipelines.scenes.checker import can_check, check
from pipelines.scenes.grammar import parse

ROWS = ("base", "tuned")
RIGHT, WRONG = "#14713a", "#b3261e"
"""Colours of the caption of an image that shows its prompt, and of any other."""
MAX_NAME = 60
"""Characters of a text in the name of its file."""


def sample_images(settings: Settings) -> list[Path]:
    """Generates images of each text by the base (upper row) and by the exported policy (lower row), from equal noise.

    Writes a PNG file for each text and returns their paths. A sheet shows the text, the seed, the policy version, the
    SpatialScore of each image if the run has a reward model, and in the scenes world the verdict of the exact checker.
    Raises UserError if there is no text, or no such version of the policy.
    """
    texts = check_texts(settings)
    choose_version(settings)  # before the models are loaded
    base = Path(flux_location(settings))
    check_text_lengths(settings, "sample.text", texts)
    if warning := vocabulary_warning(texts, base, "this FLUX"):
        print_warning(warning)
    paths = provide_export(settings)
    record = read_export_record(paths.export)
    version = str(record.policy_version) if record else "newest"
    device = init_worker(settings.policy.learner.threads, 1.0 if torch.cuda.is_available() else 0.0)
    rows = _generate(settings, texts, paths.export, device)
    reward = spatialscore_folder(settings)
    scorer = SpatialScorer.from_pretrained(reward, device=str(device)) if reward.is_dir() else None
    return [
        _write_sheet(settings, paths, text, version, images, scorer) for text, images in zip(texts, rows, strict=True)
    ]


def sheet_name(text: str, seed: int, version: str, width: int, height: int) -> str:
    """Name of the PNG file of a text. Different texts, seeds, versions and sizes have different names.

    The words of the text are kept in every script. A digest is added if they do not say all of the text.
    """
    words = re.sub(r"[\W_]+", "-", text.lower()).strip("-")[:MAX_NAME].strip("-")
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    name = words if words.replace("-", " ") == text else "-".join(filter(None, [words, digest]))
    return f"{name}.seed-{seed}.version-{version}.{width}x{height}.png"


def _generate(
    settings: Settings, texts: Sequence[str], export: Path, device: torch.device
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Returns images uint8 [B, H, W, 3] by the base and by the policy, for each text."""
    cfg = settings.sample
    policy = load_policy(flux_location(settings), settings.flux, device)
    policy.load_lora(read_lora(export, settings.flux))
    seeds = group_seeds(cfg.seed, 0, 0, cfg.images)
    plan = SamplingPlan.for_evaluation(settings.evaluation, settings.policy.sampling.batch)
    return [sample_before_and_after(policy, policy.encode([text]) * cfg.images, seeds, plan) for text in texts]


def _write_sheet(
    settings: Settings,
    paths: RunPaths,
    text: str,
    version: str,
    images: tuple[np.ndarray, np.ndarray],
    scorer: SpatialScorer | None,
) -> Path:
    """Writes the images of a text with their captions. The text is in the file's metadata, too."""
    cfg, flux = settings.sample, settings.flux
    scores = [scorer.score(images=list(row), prompts=[text] * len(row)).mu if scorer else None for row in images]
    verdicts = [_verdicts(settings, text, row) for row in images]
    captions = [
        [", ".join(filter(None, parts)) for parts in zip(_score_texts(mu, len(row)), checked, strict=True)]
        for row, mu, (checked, _) in zip(images, scores, verdicts, strict=True)
    ]
    title = [text, f"seed {cfg.seed}, policy version {version}, {flux.width} × {flux.height} pixels"]
    sheet = image_grid(images, captions, ROWS, title, [colors for _, colors in verdicts])
    name = sheet_name(text, cfg.seed, version, flux.width, flux.height)
    path = Path(cfg.out) if cfg.out else paths.samples / name
    path.parent.mkdir(parents=True, exist_ok=True)
    metadata = PngInfo()
    for key, value in (("prompt", text), ("seed", str(cfg.seed)), ("policy version", version)):
        metadata.add_itxt(key, value)
    sheet.save(path, format="PNG", pnginfo=metadata)
    return path


def _score_texts(mu: np.ndarray | None, count: int) -> list[str]:
    return [""] * count if mu is None else [f"SpatialScore {score:+.2f}" for score in mu]


def _verdicts(settings: Settings, text: str, images: np.ndarray) -> tuple[list[str], list[str]]:
    """What the exact checker says of each image, and the colours of it; "" and black if it cannot read the text."""
    try:
        relations = parse(text).relations
    except ValueError:
        relations = ()
    if not relations or not can_check(settings.flux):
        return [""] * len(images), ["black"] * len(images)
    verdicts = [check(image, relations) for image in images]
    texts = [f"{verdict.right} of {len(relations)} relations correct" for verdict in verdicts]
    return texts, [RIGHT if verdict.perfect else WRONG for verdict in verdicts]

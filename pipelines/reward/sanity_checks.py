"""What a reward model must pass before it may steer a policy."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import ray
from PIL import Image
from safetensors.torch import load_file

from actors.spatialscore import SpatialScorer, load
from actors.spatialscore.config import ADAPTER_FILE
from actors.worker_setup import actor_options
from conf.serving import ServingSettings
from conf.settings import Settings
from pipelines.common.paths import preferences_folder
from pipelines.reward.data import Pair, mirrored, read_pairs
from pipelines.reward.evaluate import margins, open_scorer
from pipelines.reward.sanity_report import SanityCheck, write_sanity_report
from pipelines.reward.served_model import served_model

PAIRS = 128  # of the held-out ones
SAVE_TOLERANCE = 1e-5
MIRROR_TOLERANCE = 0.02  # share of pairs by which a mirrored world may be judged worse
SIZE_TOLERANCE = 0.05  # share of pairs by which images of twice the size may be judged worse


def run_sanity_checks(settings: Settings) -> tuple[SanityCheck, ...]:
    """Examines the SpatialScore that the run is scored with, on the run's held-out pairs, and writes what was found.

    Ray must be initialised. Raises FileNotFoundError where there is no SpatialScore, ValueError where there are no
    held-out pairs.
    """
    pool = settings.serving
    task = ray.remote(_examine).options(**actor_options(pool.threads, pool.cpus, pool.gpus))
    checks = ray.get(task.remote(served_model(settings), preferences_folder(settings), pool))
    write_sanity_report(settings, checks)
    return checks


def run_checks(scorer: SpatialScorer, model: str, pairs: Sequence[Pair]) -> tuple[SanityCheck, ...]:
    """All checks. `model` is the directory that `scorer` was loaded from.

    The 2 x 2 check is left out where no pair knows what its loser shows. Raises ValueError without pairs.
    """
    if not pairs:
        raise ValueError("the doctor needs held-out pairs: raise preferences.test_fraction or preferences.pairs")
    both_ways = [pair for pair in pairs if pair.perturbed_prompt]
    return (
        check_shuffled_prompts(scorer, pairs), check_shuffled_images(scorer, pairs), check_noise_images(scorer, pairs),
        *([check_2x2(scorer, both_ways)] if both_ways else []), check_mirror(scorer, pairs),
        check_image_size(scorer, pairs),
        check_reload(scorer, model, pairs), check_lora_trained(model), check_scores_differ(scorer, pairs),
    )  # fmt: skip


def check_shuffled_prompts(scorer: SpatialScorer, pairs: Sequence[Pair]) -> SanityCheck:
    """The right prompt should score higher than another pair's, for the same image."""
    prompts = [pair.prompt for pair in pairs]
    others = [*prompts[1:], prompts[0]]
    images = [pair.image_w for pair in pairs]
    scores = scorer.score(images=[*images, *images], prompts=[*prompts, *others])
    share = float((scores.mu[: len(pairs)] > scores.mu[len(pairs) :]).mean())
    return SanityCheck(
        "shuffled prompts", share >= 0.9, share, "at least 0.9 of images prefer their own prompt",
        "The score hardly depends on the text: a policy trained on it would drift to one pleasing picture for all "
        "prompts. Train longer, or check that prompts and images of the pairs belong together.",
    )  # fmt: skip


def check_shuffled_images(scorer: SpatialScorer, pairs: Sequence[Pair]) -> SanityCheck:
    """The right image should score higher than a blank one of its mean colour."""
    blank = [np.broadcast_to(p.image_w.mean((0, 1)).astype(np.uint8), p.image_w.shape).copy() for p in pairs]
    share = _share_beating(scorer, pairs, blank)
    return SanityCheck(
        "blank image", share >= 0.95, share, "at least 0.95 of images beat a blank one",
        "A blank image scores as high as the right one: a policy would learn to draw nothing. Add pairs whose loser "
        "lacks objects (preferences.corrupted_fraction).",
    )  # fmt: skip


def check_noise_images(scorer: SpatialScorer, pairs: Sequence[Pair]) -> SanityCheck:
    """The right image should score higher than uniform noise."""
    rng = np.random.default_rng(0)
    noise = [rng.integers(0, 256, pair.image_w.shape, dtype=np.uint8) for pair in pairs]
    share = _share_beating(scorer, pairs, noise)
    return SanityCheck(
        "noise image", share >= 0.95, share, "at least 0.95 of images beat noise",
        "Noise scores as high as the right image: the score is not to be trusted far from the pictures of its pairs, "
        "and a policy could drift there. Add pairs with broken losers (preferences.corrupted_fraction).",
    )  # fmt: skip


def check_2x2(scorer: SpatialScorer, pairs: Sequence[Pair]) -> SanityCheck:
    """2 x 2: of a pair's two images under its two prompts, the two that belong together should score higher in sum.

    What the score likes of an image, or of a text, alone falls out of (w, p) + (l, q) - (w, q) - (l, p).
    `pairs`: with a perturbed prompt each.
    """
    first, second = [pair.image_w for pair in pairs], [pair.image_l for pair in pairs]
    plain = margins(scorer, first, second, [pair.prompt for pair in pairs])
    changed = margins(scorer, second, first, [str(pair.perturbed_prompt) for pair in pairs])
    share = float((plain + changed > 0).mean())
    return SanityCheck(
        "2 x 2", share >= 0.9, share, "at least 0.9 of pairs match images with prompts",
        "Both images are ordered alike under both prompts: the score prefers one kind of picture, whatever is asked "
        "for. Set reward.both_prompts=true, or train longer.",
    )  # fmt: skip


def check_mirror(scorer: SpatialScorer, pairs: Sequence[Pair]) -> SanityCheck:
    """Mirrored images under texts with left and right exchanged should be ordered as well as the originals.

    Judged worse means: by more than the tolerance and twice the standard error of a paired difference, which counts
    the pairs that changed (McNemar).
    """
    plain, turned = _right(scorer, pairs), _right(scorer, [mirrored(pair) for pair in pairs])
    change, error = float((turned - plain).mean()), float(np.sqrt((turned != plain).sum())) / len(pairs)
    return SanityCheck(
        "mirror", change >= -MIRROR_TOLERANCE - 2 * error, change,
        f"at least -{MIRROR_TOLERANCE} (share of pairs) less 2 x {error:.4f}, its standard error",
        "Order is judged worse in the mirror: the score has learnt a side or a shortcut instead of the relation. Set "
        "reward.mirror=true.",
    )  # fmt: skip


def check_image_size(scorer: SpatialScorer, pairs: Sequence[Pair]) -> SanityCheck:
    """Images of twice the width and height should be ordered as well as the originals."""
    enlarged = [replace(pair, image_w=_twice(pair.image_w), image_l=_twice(pair.image_l)) for pair in pairs]
    plain, large = (
        float(
            (margins(scorer, [p.image_w for p in some], [p.image_l for p in some], [p.prompt for p in some]) > 0).mean()
        )
        for some in (pairs, enlarged)
    )
    return SanityCheck(
        "image size", large >= plain - SIZE_TOLERANCE, large - plain, f"at least -{SIZE_TOLERANCE} (share of pairs)",
        "Larger images are judged worse: the policy must draw at the size of the pairs, or the pairs at the size of "
        "the policy (flux.height, flux.width); spatialscore.pixels is what both are resized to.",
    )  # fmt: skip


def check_reload(scorer: SpatialScorer, model: str, pairs: Sequence[Pair]) -> SanityCheck:
    """Saved and loaded once more, the model should give the same scores."""
    images, prompts = [pair.image_w for pair in pairs[:16]], [pair.prompt for pair in pairs[:16]]
    with tempfile.TemporaryDirectory() as folder:
        load(model).save_pretrained(folder)
        again = SpatialScorer.from_pretrained(folder)
        drift = np.abs(again.score(images=images, prompts=prompts).mu - scorer.score(images=images, prompts=prompts).mu)
    worst = float(drift.max())
    return SanityCheck(
        "save and load", worst <= SAVE_TOLERANCE, worst, f"at most {SAVE_TOLERANCE} difference",
        "The saved directory does not score as the model in memory: weights are lost or changed on the way to disk, "
        "and the reward pool would serve something else than was measured.",
    )  # fmt: skip


def check_lora_trained(model: str) -> SanityCheck:
    """Every lora_B should have left zero, where it starts."""
    weights = load_file(f"{model}/{ADAPTER_FILE}")
    trained = [bool(value.any()) for name, value in weights.items() if "lora_B" in name]
    share = float(np.mean(trained)) if trained else 0.0
    return SanityCheck(
        "LoRA", share == 1.0, share, "every lora_B differs from zero",
        "Adapter layers were never updated, so the backbone is still the pretrained one: gradients did not reach them, "
        "or an untrained directory was exported.",
    )  # fmt: skip


def check_scores_differ(scorer: SpatialScorer, pairs: Sequence[Pair]) -> SanityCheck:
    """Scores of different images should spread, and be finite."""
    scores = scorer.score(images=[pair.image_w for pair in pairs], prompts=[pair.prompt for pair in pairs])
    spread = float(scores.mu.std()) if np.isfinite(scores.mu).all() else float("nan")
    return SanityCheck(
        "spread", spread > 1e-3, spread, "a finite standard deviation above 0.001",
        "All images get the same score, or no number: advantages within a group would be noise.",
    )  # fmt: skip


def table(checks: Sequence[SanityCheck]) -> str:
    """The checks as text; a failed one says what it means."""
    lines: list[str] = []
    for check in checks:
        lines.append(f"{'ok  ' if check.passed else 'FAIL'}  {check.name:<16} {check.value:9.4f}  ({check.wanted})")
        if not check.passed:
            lines.append(f"      {check.if_failed}")
    return "\n".join(lines)


def _share_beating(scorer: SpatialScorer, pairs: Sequence[Pair], others: Sequence[np.ndarray]) -> float:
    """Share of the right images that score higher than the other image under the same prompt."""
    return float((margins(scorer, [p.image_w for p in pairs], others, [p.prompt for p in pairs]) > 0).mean())


def _right(scorer: SpatialScorer, pairs: Sequence[Pair]) -> np.ndarray:
    """1 for every pair in the right order, else 0. [N]"""
    margin = margins(scorer, [p.image_w for p in pairs], [p.image_l for p in pairs], [p.prompt for p in pairs])
    return (margin > 0).astype(int)


def _twice(image: np.ndarray) -> np.ndarray:
    """[H, W, 3] -> [2H, 2W, 3], smoothly."""
    height, width = image.shape[:2]
    return np.asarray(
        Image.fromarray(np.ascontiguousarray(image)).resize((2 * width, 2 * height), Image.Resampling.BICUBIC)
    )


def _examine(model: str, folder: str, pool: ServingSettings) -> tuple[SanityCheck, ...]:
    return run_checks(open_scorer(model, pool), model, read_pairs(folder, "test")[:PAIRS])

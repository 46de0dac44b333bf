"""Sanity checks of a SpatialScore's scores: does it read prompt and image, and does it react to nothing else?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from PIL import Image

from actors.spatialscore import SpatialScorer
from pipelines.reward.data import Pair, mirror_text, mirrored
from pipelines.reward.pair_scores import score_images_of_pairs, score_pairs, score_under_perturbed_prompts
from pipelines.reward.sanity_report import SanityCheck

OWN_PROMPT_SHARE = 0.9  # of images
BEATS_EMPTY_SHARE = 0.95  # of images
MATCHED_SHARE = 0.9  # of pairs
SIDE_SHARE = 0.8  # of images whose prompt names a side
MIRROR_TOLERANCE = 0.02  # share of pairs by which the accuracy on mirrored pairs may be lower
SIZE_TOLERANCE = 0.05  # share of pairs by which the accuracy on enlarged images may be lower
MIN_SPREAD = 1e-3


def check_shuffled_prompts(scorer: SpatialScorer, pairs: Sequence[Pair]) -> SanityCheck:
    """An image should score higher under its own prompt than under another pair's."""
    share = _share_above_prompts(scorer, pairs, [_other_prompt(pairs, number) for number in range(len(pairs))])
    return SanityCheck(
        name="shuffled prompts",
        passed=share >= OWN_PROMPT_SHARE,
        value=share,
        requirement=f"at least {OWN_PROMPT_SHARE:.0%}",
        finding=f"{share:.1%} of the images score higher under their own prompt than under another one",
        if_failed="The score hardly depends on the prompt. A policy trained on it would make the same pleasing image "
        "for all prompts. Train longer, or check that prompts and images of the pairs match.",
    )


def check_blank_images(scorer: SpatialScorer, pairs: Sequence[Pair]) -> SanityCheck:
    """An image should score higher than a blank image of its mean colour."""
    blank = [np.broadcast_to(p.image_w.mean((0, 1)).astype(np.uint8), p.image_w.shape).copy() for p in pairs]
    share = _share_above(scorer, pairs, blank)
    return SanityCheck(
        name="blank image",
        passed=share >= BEATS_EMPTY_SHARE,
        value=share,
        requirement=f"at least {BEATS_EMPTY_SHARE:.0%}",
        finding=f"{share:.1%} of the images score higher than a blank image",
        if_failed="A blank image scores as high as the correct one. A policy would learn to generate blank images. Add "
        "pairs whose loser lacks objects (preferences.corrupted_fraction).",
    )


def check_noise_images(scorer: SpatialScorer, pairs: Sequence[Pair]) -> SanityCheck:
    """An image should score higher than uniform noise."""
    rng = np.random.default_rng(0)
    noise = [rng.integers(0, 256, pair.image_w.shape, dtype=np.uint8) for pair in pairs]
    share = _share_above(scorer, pairs, noise)
    return SanityCheck(
        name="noise image",
        passed=share >= BEATS_EMPTY_SHARE,
        value=share,
        requirement=f"at least {BEATS_EMPTY_SHARE:.0%}",
        finding=f"{share:.1%} of the images score higher than noise",
        if_failed="Noise scores as high as the correct image. The score is unreliable for images that differ from the "
        "training pairs, and a policy could drift to such images. Add pairs with corrupted losers "
        "(preferences.corrupted_fraction).",
    )


def check_2x2(scorer: SpatialScorer, pairs: Sequence[Pair]) -> SanityCheck:
    """Of a pair's two images and two prompts, the matching combinations should have the higher sum of scores.

    A preference for an image or for a prompt alone cancels out in (w, p) + (l, q) - (w, q) - (l, p).
    `pairs`: each with a perturbed prompt.
    """
    margin = score_pairs(scorer, pairs).margin + score_under_perturbed_prompts(scorer, pairs).margin
    share = float((margin > 0).mean())
    return SanityCheck(
        name="2 x 2",
        passed=share >= MATCHED_SHARE,
        value=share,
        requirement=f"at least {MATCHED_SHARE:.0%}",
        finding=f"in {share:.1%} of the pairs, each image scores higher under its own prompt",
        if_failed="Both images have the same order under both prompts: the score prefers one kind of image, whatever "
        "the prompt asks for. Set reward.both_prompts=true, or train longer.",
    )


def check_sides(scorer: SpatialScorer, pairs: Sequence[Pair]) -> SanityCheck:
    """An image should score higher under its prompt than under the same prompt with left and right exchanged.

    `pairs`: each with "left" or "right" in its prompt. A mirrored image under a mirrored prompt is no test of this: a
    model that takes left for right passes it.
    """
    share = _share_above_prompts(scorer, pairs, [mirror_text(pair.prompt) for pair in pairs])
    return SanityCheck(
        name="left and right",
        passed=share >= SIDE_SHARE,
        value=share,
        requirement=f"at least {SIDE_SHARE:.0%}",
        finding=f"{share:.1%} of the images score higher under their own prompt than with left and right exchanged",
        if_failed="The score does not tell left from right, or takes one for the other: images may be mirrored on the "
        "way to the model (EXIF orientation), or the pairs hold few such relations. Below 50 %, look for a mirror.",
    )


def check_mirror(scorer: SpatialScorer, pairs: Sequence[Pair]) -> SanityCheck:
    """The accuracy on mirrored images, with left and right exchanged in their prompts, should not be lower.

    Lower means: by more than the tolerance plus two standard errors of the paired difference, which counts the pairs
    whose order changed (McNemar).
    """
    original, mirror = _is_right(scorer, pairs), _is_right(scorer, [mirrored(pair) for pair in pairs])
    change, error = float((mirror - original).mean()), float(np.sqrt((mirror != original).sum())) / len(pairs)
    return SanityCheck(
        name="mirror",
        passed=change >= -MIRROR_TOLERANCE - 2 * error,
        value=change,
        requirement=f"at most {100 * MIRROR_TOLERANCE:.0f} lower, plus two standard errors of {100 * error:.1f}",
        finding=f"accuracy on mirrored images: {100 * change:+.1f} points",
        if_failed="The accuracy on mirrored images is lower: the score has learned a side or a shortcut instead of the "
        "relation. Set reward.mirror=true.",
    )


def check_image_size(scorer: SpatialScorer, pairs: Sequence[Pair]) -> SanityCheck:
    """The accuracy on images of twice the width and height should not be much lower."""
    enlarged = [replace(pair, image_w=_double(pair.image_w), image_l=_double(pair.image_l)) for pair in pairs]
    change = float(_is_right(scorer, enlarged).mean()) - float(_is_right(scorer, pairs).mean())
    return SanityCheck(
        name="image size",
        passed=change >= -SIZE_TOLERANCE,
        value=change,
        requirement=f"at most {100 * SIZE_TOLERANCE:.0f} lower",
        finding=f"accuracy on larger images: {100 * change:+.1f} points",
        if_failed="The accuracy on larger images is lower. The policy must generate images of the size of the pairs, "
        "or the pairs must have the size of the policy's images (flux.height, flux.width). spatialscore.pixels is the "
        "size to which all images are resized.",
    )


def check_scores_differ(scorer: SpatialScorer, pairs: Sequence[Pair]) -> SanityCheck:
    """Scores of different images under one prompt should be finite and differ, as those of a group of a policy run."""
    mu = scorer.score(images=[pair.image_w for pair in pairs], prompts=[pairs[0].prompt] * len(pairs)).mu
    spread = float(mu.std()) if np.isfinite(mu).all() else float("nan")
    return SanityCheck(
        name="spread",
        passed=spread > MIN_SPREAD,
        value=spread,
        requirement=f"above {MIN_SPREAD}",
        finding=f"standard deviation of the scores of different images: {spread:.3g}",
        if_failed="All images of a prompt get the same score, or NaN: advantages within a group would be noise.",
    )


def _share_above(scorer: SpatialScorer, pairs: Sequence[Pair], others: Sequence[np.ndarray]) -> float:
    """Share of the winners that score higher than the other image under the same prompt."""
    winners, prompts = [pair.image_w for pair in pairs], [pair.prompt for pair in pairs]
    return float((score_images_of_pairs(scorer, winners, others, prompts).margin > 0).mean())


def _share_above_prompts(scorer: SpatialScorer, pairs: Sequence[Pair], others: Sequence[str]) -> float:
    """Share of the winners that score higher under their own prompts than under the other ones."""
    winners, prompts = [pair.image_w for pair in pairs], [pair.prompt for pair in pairs]
    mu = scorer.score(images=[*winners, *winners], prompts=[*prompts, *others]).mu
    return float((mu[: len(pairs)] > mu[len(pairs) :]).mean())


def _other_prompt(pairs: Sequence[Pair], number: int) -> str:
    """The next prompt of another prompt group, because those of a group are nearly equal; else the next other one."""
    pair, following = pairs[number], [*pairs[number + 1 :], *pairs[:number]]
    others = [each for each in following if each.prompt != pair.prompt] or [pair]
    return next((each for each in others if each.group_id != pair.group_id), others[0]).prompt


def _is_right(scorer: SpatialScorer, pairs: Sequence[Pair]) -> np.ndarray:
    """1 for each pair in the right order, else 0  # [N] int."""
    return (score_pairs(scorer, pairs).margin > 0).astype(int)


def _double(image: np.ndarray) -> np.ndarray:
    """Resizes [H, W, 3] to [2H, 2W, 3] with bicubic interpolation."""
    height, width = image.shape[:2]
    enlarged = Image.fromarray(np.ascontiguousarray(image)).resize((2 * width, 2 * height), Image.Resampling.BICUBIC)
    return np.asarray(enlarged)

"""`reward check`: the sanity checks that a SpatialScore must pass before it may train a policy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import ray

from actors.spatialscore import SpatialScorer
from actors.spatialscore.config import ADAPTER_FILE
from actors.worker_setup import actor_options
from conf import UserError
from conf.serving import ServingSettings
from conf.settings import Settings
from pipelines.common.progress_line import ProgressLine
from pipelines.common.terminal import mark
from pipelines.reward.data import Pair, mirror_text, read_pairs, require_held_out_pairs
from pipelines.reward.locations import HELD_OUT, PairSource, has_incomplete_images, pair_source
from pipelines.reward.sanity_reference import check_forward, check_head_precision, check_preprocessing
from pipelines.reward.sanity_report import SanityCheck, write_sanity_report
from pipelines.reward.score_checks import (
    check_2x2,
    check_blank_images,
    check_image_size,
    check_mirror,
    check_noise_images,
    check_scores_differ,
    check_shuffled_prompts,
    check_sides,
)
from pipelines.reward.served_model import open_scorer, served_model
from pipelines.reward.weight_checks import check_lora_trained, check_reload, check_reward_token

PAIRS = 128
"""Held-out pairs that are checked at most."""
NEED_INCOMPLETE_IMAGES = ("shuffled prompts", "blank image", "noise image")
"""Checks of images that lack objects of the prompt. A model that ignores prompts still fails the check 2 x 2."""
UNSEEN = (
    "a warning only: no training pair of this run has a corrupted or generated loser, as in the paper, so the model "
    "never saw an image that lacks objects. Watch the images of the policy"
)


def run_sanity_checks(settings: Settings, log: Callable[[str], None] = print) -> tuple[SanityCheck, ...]:
    """Checks the SpatialScore that scores the run's images on held-out pairs, and writes the result.

    A failed check whose training signal the pairs lack is a warning. `log` takes a line if pairs cannot be read. Ray
    must be initialized. Raises UserError if there is no SpatialScore, if its LoRA is merged, or if there is no held-out
    pair or too many of them cannot be read.
    """
    model, pairs = served_model(settings), pair_source(settings)
    if not (Path(model) / ADAPTER_FILE).is_file():
        raise UserError(f"the LoRA of {model} is merged: check the directory that it was merged from")
    require_held_out_pairs(pairs)
    with ProgressLine("reward", log) as progress:
        progress.phase(f"running the sanity checks on up to {PAIRS} held-out pairs")
        checked = _check_remotely(model, pairs, settings.serving)
    if checked.left_out:
        log(f"reward check  {checked.left_out}")
    checks = checked.checks if has_incomplete_images(pairs) else excuse_unseen(checked.checks)
    write_sanity_report(settings, checks)
    return checks


def excuse_unseen(checks: Sequence[SanityCheck]) -> tuple[SanityCheck, ...]:
    """The checks of a model that was trained without corrupted images: a failure for want of them is a warning."""
    return tuple(
        replace(check, excuse=UNSEEN) if check.name in NEED_INCOMPLETE_IMAGES and not check.passed else check
        for check in checks
    )


def run_checks(scorer: SpatialScorer, model: str, pairs: Sequence[Pair]) -> tuple[SanityCheck, ...]:
    """All checks. `model`: the directory that `scorer` was loaded from. `pairs`: at least one.

    The 2 x 2 check is left out if no pair has a perturbed prompt, that of left and right if no prompt names a side.
    """
    perturbed = [pair for pair in pairs if pair.perturbed_prompt]
    sided = [pair for pair in pairs if mirror_text(pair.prompt) != pair.prompt]
    return (
        check_shuffled_prompts(scorer, pairs),
        check_blank_images(scorer, pairs),
        check_noise_images(scorer, pairs),
        *([check_2x2(scorer, perturbed)] if perturbed else []),
        *([check_sides(scorer, sided)] if sided else []),
        check_mirror(scorer, pairs),
        check_image_size(scorer, pairs),
        check_preprocessing(scorer, pairs),
        check_forward(scorer, pairs),
        check_head_precision(scorer, pairs),
        check_reload(scorer, model, pairs),
        check_reward_token(scorer, model),
        check_lora_trained(model),
        check_scores_differ(scorer, pairs),
    )


def table(checks: Sequence[SanityCheck]) -> str:
    """The checks as text: what was found, and what is required. A failed check is followed by its meaning.

    "!" marks a failure that is a warning only; the reason follows.
    """
    width = max((len(check.finding) for check in checks), default=0)
    lines: list[str] = []
    for check in checks:
        sign = "!" if check.excuse else mark(check.passed)
        lines.append(f"{sign} {check.name:<17}{check.finding:<{width}}  ({check.requirement})")
        if not check.passed:
            lines.append(f"  {check.if_failed}")
        if check.excuse:
            lines.append(f"  {check.excuse}.")
    return "\n".join(lines)


@dataclass(frozen=True)
class _Checked:
    checks: tuple[SanityCheck, ...]
    left_out: str  # of the pairs


def _check_remotely(model: str, source: PairSource, serving: ServingSettings) -> _Checked:
    """Runs the checks in a Ray task with the resources of a replica."""

    def run() -> _Checked:
        decoded = read_pairs(source, HELD_OUT, limit=PAIRS)
        return _Checked(run_checks(open_scorer(model, serving), model, decoded.pairs), decoded.left_out)

    return ray.get(ray.remote(run).options(**actor_options(serving.threads, serving.cpus, serving.gpus)).remote())

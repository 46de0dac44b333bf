"""What a run reads besides its settings: a checkpoint, and a row of an ablation, belong to it as well."""

from __future__ import annotations

from pathlib import Path

from conf.flux import EMBEDDED
from conf.settings import Settings
from pipelines.common.fingerprints import SHORT_DIGITS, digest_of_model, digest_of_text
from pipelines.common.paths import score_folder
from pipelines.scenes import checkpoints_dir


def flux_location(settings: Settings) -> str:
    """The policy's base model as from_pretrained finds it."""
    return str(checkpoints_dir("flux")) if settings.flux.model == EMBEDDED else settings.flux.model


def input_fingerprints(settings: Settings) -> dict[str, str]:
    """What the policy begins from, is rewarded by and trained on: digests of what lies here, names of what does not.

    Raises FileNotFoundError where the file of prompts is absent.
    """
    mix, prompts = settings.rewards, settings.policy.prompts
    return {
        "the base": _identity(flux_location(settings)),
        "SpatialScore": _identity(str(score_folder(settings))) if mix.spatialscore else "",
        "the judge": settings.judge.model if mix.judge else "",
        "the detector": _identity(settings.detector.model) if mix.detector else "",
        "the file policy.prompts": digest_of_text(prompts),
    }


def _identity(model: str) -> str:
    return digest_of_model(Path(model))[:SHORT_DIGITS] if Path(model).is_dir() else model

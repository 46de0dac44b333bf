"""Fingerprints of what a run reads besides its settings. Checkpoints and runs of an ablation are bound to them."""

from __future__ import annotations

from pathlib import Path

from conf.flux import EMBEDDED
from conf.settings import Settings
from pipelines.common.fingerprints import SHORT_DIGITS, digest_of_model, digest_of_text
from pipelines.common.paths import spatialscore_folder
from pipelines.scenes import checkpoints_dir

HELD_OUT_FILE = "the file policy.held_out_prompts"
"""Name of the digest of the prompts that a run is measured with."""


def flux_location(settings: Settings) -> str:
    """The base model as `from_pretrained` finds it: a path or a name on the model hub."""
    return str(checkpoints_dir("flux")) if settings.flux.model == EMBEDDED else settings.flux.model


def input_fingerprints(settings: Settings) -> dict[str, str]:
    """Returns what the policy starts from, is rewarded by and is trained on: local files as digests, others by name.

    Inputs that are not used have the value "". Raises FileNotFoundError if the file of prompts is absent.
    """
    prompts = settings.policy.prompts
    return {
        "the base": _fingerprint(flux_location(settings)),
        "SpatialScore": _fingerprint(str(spatialscore_folder(settings))) if settings.trains_on("spatialscore") else "",
        "the judge": settings.judge.model if settings.trains_on("judge") else "",
        "the detector": _fingerprint(settings.detector.model) if settings.trains_on("detector") else "",
        "the file policy.prompts": digest_of_text(prompts),
    }


def measured_fingerprints(settings: Settings) -> dict[str, str]:
    """Returns what a run is measured with. Raises FileNotFoundError if the file of held-out prompts is absent."""
    return {HELD_OUT_FILE: digest_of_text(settings.policy.held_out_prompts)}


def _fingerprint(model: str) -> str:
    return digest_of_model(Path(model))[:SHORT_DIGITS] if Path(model).is_dir() else model

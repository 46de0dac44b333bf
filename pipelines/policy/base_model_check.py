"""Checks that read small files of the base model before anything starts: its tokenizers and its noise schedule."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from actors.policy.base import Policy
from actors.policy.noise_check import check_noise
from actors.policy.plan import SamplingPlan
from actors.policy.registry import family_of
from conf import SettingsError
from conf.settings import Settings
from pipelines.common.prompts import read_prompt_setting
from pipelines.common.terminal import print_warning
from pipelines.policy.fingerprint import flux_location

_STEP = 64
"""A suggested `flux.max_sequence_length` is a multiple of this."""


@dataclass(frozen=True)
class _BaseModel:
    family: type[Policy]
    pipeline: Any  # without weights


def check_base_model(settings: Settings) -> None:
    """Raises SettingsError if the base cannot be trained with these settings: see the checks below.

    If the model's files cannot be read here, as on a driver without access to the hub, it warns and checks nothing.
    """
    base = _base_model(flux_location(settings))
    if base is None:
        return
    base.family.check_settings(settings.flux, base.pipeline)
    _check_plans(settings, base)
    policy = settings.policy
    if policy.prompts:
        check_text_lengths(settings, "policy.prompts", _texts(read_prompt_setting("policy.prompts", policy.prompts)))
    if policy.held_out_prompts:
        held_out = read_prompt_setting("policy.held_out_prompts", policy.held_out_prompts)
        check_text_lengths(settings, "policy.held_out_prompts", _texts(held_out))


def check_text_lengths(settings: Settings, source: str, texts: Sequence[str]) -> None:
    """Raises SettingsError if a text of `source` has more tokens than the base reads: the rest would be cut off."""
    base, limit = _base_model(flux_location(settings)), settings.flux.max_sequence_length
    if base is None or not texts:
        return
    counts = [base.family.count_tokens(base.pipeline, text) for text in texts]
    longest = max(counts)
    if longest <= limit:
        return
    enough = min(-(-longest // _STEP) * _STEP, base.family.max_text_tokens)
    fix = f"set flux.max_sequence_length={enough} or shorten" if longest <= enough else "shorten"
    raise SettingsError(
        f"{source}: a text must have at most flux.max_sequence_length={limit} tokens, because the rest would be cut "
        f"off, got {sum(count > limit for count in counts)} of {len(texts)} texts with more. The longest has {longest} "
        f"tokens, {texts[counts.index(longest)][:60]!r}…: {fix} them"
    )


def _check_plans(settings: Settings, base: _BaseModel) -> None:
    """Raises SettingsError if an iteration's plan draws noise that the schedule cannot remove."""
    policy, flux = settings.policy, settings.flux
    image_tokens = (flux.height // 16) * (flux.width // 16)
    sigmas = base.family.noise_levels(base.pipeline.scheduler, policy.sampling.denoise_steps, image_tokens)
    for plan in {SamplingPlan.for_training(policy, iteration) for iteration in range(policy.iterations)}:
        check_noise(plan, sigmas)


@cache
def _base_model(model: str) -> _BaseModel | None:
    """The pipeline of a base without its weights; None, with a warning, if its files cannot be read."""
    try:
        family = family_of(model)
        return _BaseModel(family, family.load_without_weights(model))
    except OSError as error:
        reason = str(error).splitlines()[0]
        print_warning(f"flux.model={model} cannot be read here, so prompts and noise are not checked: {reason}")
        return None


def _texts(prompts: Sequence[Any]) -> list[str]:
    return [prompt.text for prompt in prompts]

"""What a resumed run must have in common with its checkpoint: the settings and inputs that decide what is learned."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any, cast

from conf import UserError
from conf.settings import Settings
from pipelines.policy.checkpoint import Manifest
from pipelines.policy.fingerprint import input_fingerprints

RESUME_MAY_CHANGE = (
    "policy.minutes",
    "policy.resume",
    "policy.held_out_prompts",
    "policy.evaluation",
    "policy.checkpoint",
    "policy.rollout",
    "policy.learner.threads",
    "policy.learner.cpus",
    "policy.learner.gpus",
    "policy.learner.node_group",
    "policy.learner.placement",
    "policy.optimizer.max_empty_steps",
    "policy.call_margin_s",
    "flux.model",
    # These change only how forward passes round. A run that stopped for lack of memory, or at the on-policy gate, can
    # continue only if they may change.
    "policy.learner.replay_batch",
    "policy.sampling.batch",
    "policy.algorithm.ratio_tolerance",
    "flux.text_encoders_on_cpu",
    "flux.checkpoint_every",
    "flux.vae_decoding",
    "flux.compile",
)
"""Settings, or whole sections, that a resumed run may change: they do not change the mathematics.

`flux.model` may be another path to the same model: `input_fingerprints` compares its files.
"""


def training_settings(settings: Settings) -> dict[str, object]:
    """Returns the settings that decide what is learned: dotted name -> value, in the types of JSON."""
    values = {
        **dict(_flatten("policy", asdict(settings.policy))),
        **dict(_flatten("flux", asdict(settings.flux))),
        **dict(_flatten("rewards", asdict(settings.rewards))),
        "detector.threshold": settings.detector.threshold,
        "detector.margin": settings.detector.margin,
    }
    kept = {name: value for name, value in values.items() if not _may_change(name)}
    return json.loads(json.dumps(kept))


def run_identity(settings: Settings) -> dict[str, object]:
    """Returns everything that decides what is learned: settings, and the digests of the files that the run reads."""
    return training_settings(settings) | input_fingerprints(settings)


def check_resumable(manifest: Manifest, settings: Settings) -> None:
    """Raises UserError, with every difference, if the run's identity differs from that of its checkpoint.

    A setting that did not exist when the checkpoint was written counts as its default.
    """
    _refuse_changes(manifest, run_identity(settings))


def check_settings_unchanged(manifest: Manifest, settings: Settings) -> None:
    """Raises what `check_resumable` raises if settings differ. Reads no model, so it answers at once."""
    _refuse_changes(manifest, training_settings(settings))


def _refuse_changes(manifest: Manifest, now: Mapping[str, object]) -> None:
    then = training_settings(Settings()) | manifest.settings
    changed = [
        f"{name} was {then[name]!r} and is {now[name]!r}"
        for name in sorted(now.keys() & then.keys())
        if then[name] != now[name]
    ]
    if changed:
        raise UserError(
            f"the checkpoint of version {manifest.version} belongs to other settings or inputs: {'; '.join(changed)}. "
            "Restore them, choose another run_dir, or start again with policy.resume=never"
        )


def _may_change(name: str) -> bool:
    return any(name == free or name.startswith(f"{free}.") for free in RESUME_MAY_CHANGE)


def _flatten(prefix: str, values: Mapping[str, Any]) -> Iterator[tuple[str, object]]:
    """Yields (dotted name, value) for nested settings."""
    for key, value in values.items():
        name = f"{prefix}.{key}"
        if isinstance(value, Mapping):
            yield from _flatten(name, cast("Mapping[str, Any]", value))
        else:
            yield name, value

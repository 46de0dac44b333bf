"""What may change when a run is resumed, and what the change means.

Every setting and input is in one of four classes: it decides only where the run runs or how forward passes round; it
decides what is measured; it decides what is learned; or it gives the weights their shape and meaning. The last one
cannot change. Changes of the second and third class are recorded in the run's lineage; `policy.strict_resume` refuses
those of the third.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from typing import Any, cast

from actors.grpo.lr_schedule import learning_rate
from conf import UserError
from conf.policy import PolicySettings
from conf.settings import Settings
from pipelines.policy.checkpoint import Manifest
from pipelines.policy.fingerprint import HELD_OUT_FILE, input_fingerprints, measured_fingerprints
from pipelines.policy.lineage import Change

RESUME_MAY_CHANGE = (
    "policy.minutes",
    "policy.resume",
    "policy.strict_resume",
    "policy.checkpoint",
    "policy.placement",  # on the same number of ranks the result is the same, bit for bit
    "policy.rollout",
    "policy.learner.threads",
    "policy.learner.cpus",
    "policy.learner.gpus",
    "policy.learner.node_group",
    "policy.learner.placement",
    "policy.optimizer.max_empty_steps",
    "policy.call_margin_s",
    "policy.profile_iterations",
    "flux.model",
    # These change only how forward passes round. A run that stopped for lack of memory, or at the on-policy gate, can
    # continue only if they may change.
    "policy.learner.replay_batch",
    "policy.sampling.batch",
    "policy.nft.sampling_tolerance",
    "policy.algorithm.ratio_tolerance",
    "policy.algorithm.old_log_probs",
    "flux.text_encoders_on_cpu",
    "flux.checkpoint_every",
    "flux.vae_decoding",
    "flux.compile",
)
"""Settings, or whole sections, that a resumed run may change without a record: they do not change the mathematics.

`flux.model` may be another path to the same model: `input_fingerprints` compares its files.
"""

MEASURED = ("policy.evaluation", "policy.held_out_prompts", HELD_OUT_FILE)
"""Settings and inputs that decide what is measured and not what is learned. A change is recorded and never refused."""

START = "the start"
"""Name of the digest of the LoRA that a run started from, in its identity."""

_START_AGAIN = "start a new run from these weights: another run_dir, and policy.start_from=<this run_dir>"
NEVER_CHANGE = {
    "flux.lora_rank": "the weights keep their rank: restore it, or choose another run_dir",
    "flux.lora_targets": "the weights keep their layers: restore them, or choose another run_dir",
    "flux.lora_alpha": f"it scales the weights: restore it, or {_START_AGAIN}",
    "the base": f"the weights belong to their base: restore flux.model, or {_START_AGAIN}",
    "policy.algorithm.objective": f"the learner of another objective has another state: restore it, or {_START_AGAIN}",
    "policy.start_from": "a run keeps its start: choose another run_dir, or start again with policy.resume=never",
}
"""Settings and inputs that give the weights of a checkpoint their shape and meaning -> the rule and the fix."""

_LEARNING_RATE = (
    "policy.iterations",
    "policy.optimizer.lr",
    "policy.optimizer.warmup_iterations",
    "policy.optimizer.final_lr_fraction",
)
_REWARD = "rewards."
"""Start of the names of a reward's weight (rewards.NAME) and of its other settings (rewards.NAME.path)."""
_RANKS = ("policy.learner.ranks", "policy.learner.engine", "policy.learner.zero_stage")


def training_settings(settings: Settings) -> dict[str, object]:
    """Returns the settings that decide what is learned: dotted name -> value, in the types of JSON."""
    values = {
        **dict(_flatten("policy", asdict(settings.policy))),
        **dict(_flatten("flux", asdict(settings.flux))),
        **reward_settings(settings),
        "detector.threshold": settings.detector.threshold,
        "detector.margin": settings.detector.margin,
    }
    kept = {name: value for name, value in values.items() if not _is_in(name, (*RESUME_MAY_CHANGE, *MEASURED))}
    return json.loads(json.dumps(kept))


def reward_settings(settings: Settings) -> dict[str, object]:
    """Returns what decides the training reward: the weight of each reward in it, and what decides its scores."""
    values: dict[str, object] = {}
    for name, term in settings.used_rewards().items():
        if term.trains:
            values[f"{_REWARD}{name}"] = term.weight
            values |= {f"{_REWARD}{name}.{key}": value for key, value in term.deciding().items()}
    return values


def run_identity(settings: Settings) -> dict[str, object]:
    """Returns what a checkpoint is compared with: settings, and the digests of the files that the run reads."""
    return _recorded_settings(settings) | input_fingerprints(settings) | measured_fingerprints(settings)


def changes_since(manifest: Manifest, settings: Settings, identity: Mapping[str, object]) -> list[Change]:
    """The recorded changes between a checkpoint and the settings and inputs (`run_identity`) of now, by name.

    A setting that did not exist when the checkpoint was written counts as its default, one of `MEASURED` as unchanged.
    Raises UserError, with every difference, if one of them is refused.
    """
    now, then = dict(identity), _settings_of(manifest)
    for name in [name for name in (*now, *then) if name.startswith(_REWARD)]:
        for side in (now, then):
            side.setdefault(name, 0.0 if name.count(".") == 1 else "")
    names = (name for name in sorted(now.keys() & then.keys()) if not _is_same(name, then[name], now[name]))
    changes = [Change(name, then[name], now[name]) for name in names]
    _refuse(manifest, changes, strict=settings.policy.strict_resume)
    return [replace(change, note=_note(change.name, manifest, settings)) for change in changes]


def _settings_of(manifest: Manifest) -> dict[str, object]:
    """The settings of a checkpoint, and the defaults of those that did not exist when it was written."""
    defaults = training_settings(Settings())
    if any(name.startswith(_REWARD) for name in manifest.settings):
        defaults = {name: value for name, value in defaults.items() if not name.startswith(_REWARD)}
    return defaults | manifest.settings


def check_resumable(manifest: Manifest, settings: Settings) -> None:
    """Raises UserError, with every difference, if the run cannot continue from its checkpoint."""
    changes_since(manifest, settings, run_identity(settings))


def check_settings_resumable(manifest: Manifest, settings: Settings) -> None:
    """Raises what `check_resumable` raises because of settings. Reads no model, so it answers at once."""
    changes_since(manifest, settings, _recorded_settings(settings))


def keep_start(identity: Mapping[str, object], manifest: Manifest) -> dict[str, object]:
    """The identity of a resumed run: what it started from is what its checkpoint says."""
    return {**identity, **{name: manifest.settings.get(name, "") for name in ("policy.start_from", START)}}


def _refuse(manifest: Manifest, changes: list[Change], *, strict: bool) -> None:
    def listed(refused: list[Change]) -> str:
        return "; ".join(f"{change.name} was {change.old!r} and is {change.new!r}" for change in refused)

    fixed = [change for change in changes if change.name in NEVER_CHANGE]
    if fixed:
        fixes = dict.fromkeys(NEVER_CHANGE[change.name] for change in fixed)
        raise UserError(
            f"the checkpoint of version {manifest.version} cannot be continued: {listed(fixed)}. "
            f"The rule: {'; '.join(fixes)}"
        )
    learned = [change for change in changes if not _is_in(change.name, MEASURED)]
    if strict and learned:
        raise UserError(
            f"the checkpoint of version {manifest.version} belongs to other settings or inputs: {listed(learned)}. "
            "Restore them, set policy.strict_resume=false to go on and record the changes, choose another run_dir, or "
            "start again with policy.resume=never"
        )


def _is_same(name: str, then: object, now: object) -> bool:
    if name == "policy.start_from" and then:  # it was read once, and need not be named again
        return not now or os.path.abspath(str(then)) == os.path.abspath(str(now))
    return then == now


def _note(name: str, manifest: Manifest, settings: Settings) -> str:
    """What a change means for the result, if its values do not say it."""
    if name in _LEARNING_RATE:
        before, after = (learning_rate(policy.optimizer, manifest.version, policy.iterations)
                         for policy in (_policy_of(manifest, settings.policy), settings.policy))  # fmt: skip
        return f"learning rate of iteration {manifest.version + 1}: {before:.3g} → {after:.3g}"
    if name in _RANKS:
        return "gradients are summed in another order, so later versions are not bit for bit those of the same ranks"
    return ""


def _policy_of(manifest: Manifest, policy: PolicySettings) -> PolicySettings:
    """The settings with the learning rate and its schedule as the checkpoint has them."""
    then = cast("dict[str, Any]", _settings_of(manifest))
    optimizer = {name.rpartition(".")[2]: then[name] for name in _LEARNING_RATE if name.startswith("policy.optimizer.")}
    return replace(policy, iterations=then["policy.iterations"], optimizer=replace(policy.optimizer, **optimizer))


def _recorded_settings(settings: Settings) -> dict[str, object]:
    policy = dict(_flatten("policy", json.loads(json.dumps(asdict(settings.policy)))))
    return training_settings(settings) | {name: value for name, value in policy.items() if _is_in(name, MEASURED)}


def _is_in(name: str, names: tuple[str, ...]) -> bool:
    return any(name == each or name.startswith(f"{each}.") for each in names)


def _flatten(prefix: str, values: Mapping[str, Any]) -> Iterator[tuple[str, object]]:
    """Yields (dotted name, value) for nested settings."""
    for key, value in values.items():
        name = f"{prefix}.{key}"
        if isinstance(value, Mapping):
            yield from _flatten(name, cast("Mapping[str, Any]", value))
        else:
            yield name, value

"""The policy's prompts, from the scene grammar or from a file of JSON lines."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

import numpy as np

from actors.json_lines import Row, read_rows
from actors.reward_input import InputError, check_prompt
from actors.types import Prompt, Relation
from conf import SettingsError, UserError
from conf.flux import EMBEDDED, FluxSettings
from conf.policy import PolicySettings
from conf.settings import Settings
from pipelines.scenes.grammar import held_out_prompts, training_prompts

_HINT = "write one JSON object with 'text' per line; see docs/policy.md"


@dataclass(frozen=True)
class HeldOut:
    """Prompts that training never uses. A long prompt has two relations or more."""

    short: tuple[Prompt, ...]
    long: tuple[Prompt, ...]

    def __len__(self) -> int:
        return len(self.short) + len(self.long)


def draw_training_prompts(policy: PolicySettings, flux: FluxSettings) -> list[Prompt]:
    """Returns all prompts of a run in the order of use: `iterations` x `prompts_per_iteration`.

    A file is used from end to end and shuffled anew for each pass. Raises SettingsError if no file is set for a model
    that needs one, or if the file cannot be used.
    """
    count = policy.iterations * policy.prompts_per_iteration
    pool = _training_file(policy, flux)
    if not pool:
        return training_prompts(count, policy.seed, policy.multi_relation_fraction)
    rng = np.random.default_rng(policy.seed)
    order = np.concatenate([rng.permutation(len(pool)) for _ in range(-(-count // len(pool)))])[:count]
    return [pool[i] for i in order]


def draw_held_out_prompts(policy: PolicySettings, flux: FluxSettings, seed: int) -> HeldOut:
    """Returns the prompts of evaluation during training, half of them long. There are none without a source.

    If a file has too few prompts of one kind, more of the other kind are used instead. Raises SettingsError if the
    file cannot be used, or if the scene grammar has fewer prompts than are asked for.
    """
    half = policy.evaluation.prompts // 2
    if policy.held_out_prompts:
        pool = read_prompt_setting("policy.held_out_prompts", policy.held_out_prompts)
        short = [prompt for prompt in pool if len(prompt.relations) < 2]
        long = [prompt for prompt in pool if len(prompt.relations) >= 2]
        max_short, max_long = (max(half, 2 * half - len(others)) for others in (long, short))
        return HeldOut(tuple(short[:max_short]), tuple(long[:max_long]))
    if flux.model != EMBEDDED:
        return HeldOut((), ())
    return HeldOut(tuple(held_out_prompts(half, False, seed)), tuple(held_out_prompts(half, True, seed)))


def check_prompts(settings: Settings) -> None:
    """Checks the files of prompts before anything starts. Raises SettingsError as the two functions above do."""
    _training_file(settings.policy, settings.flux)
    draw_held_out_prompts(settings.policy, settings.flux, settings.evaluation.seed)


def evaluation_notice(settings: Settings) -> str:
    """Returns a warning if a run asks for evaluations but has no held-out prompts, else ""."""
    policy, model = settings.policy, settings.flux.model
    if not policy.evaluation.every or policy.held_out_prompts or model == EMBEDDED:
        return ""
    return (
        f"policy.evaluation.every={policy.evaluation.every}, but nothing will be evaluated during training, because "
        f"flux.model={model} has no held-out prompts of its own: name a file of prompts in policy.held_out_prompts"
    )


def read_prompt_setting(setting: Literal["policy.prompts", "policy.held_out_prompts"], location: str) -> list[Prompt]:
    """Reads the file of prompts that `setting` names. Raises SettingsError, which names both, if it cannot be used."""
    try:
        return read_prompts(Path(location))
    except UserError as error:
        raise SettingsError(f"{setting}: {error}") from error


def read_prompts(path: Path) -> list[Prompt]:
    """Reads JSON lines {"text": str, "id"?: str, "relations"?: [[subject, relation, object], …]}.

    Raises UserError, which names file and line, if the file cannot be read or has no lines, and for a line that is not
    such an object or whose text no reward can score.
    """
    prompts = [_prompt_of(row) for row in read_rows(str(path), _HINT)]
    if not prompts:
        raise UserError(f"{path} holds no prompts: {_HINT}")
    return prompts


def _prompt_of(row: Row) -> Prompt:
    """The prompt of a line. Raises UserError, which names the line, for every other line."""
    text, name = row.values.get("text"), row.values.get("id", row.number)
    if not isinstance(text, str):
        found = f"got {text!r:.80}" if "text" in row.values else f"got the keys {[*row.values]!r:.80}"
        raise UserError(f'{row.place} must have a string as "text", {found}: {_HINT}')
    if type(name) not in (str, int):
        raise UserError(f'{row.place} must have a string as "id", got {name!r:.80}: {_HINT}')
    try:
        check_prompt(text)
    except InputError as error:
        raise UserError(f"{row.place}: {error}") from error
    return Prompt(str(name), text, tuple(_relations_of(row)))


def _relations_of(row: Row) -> Iterator[Relation]:
    relations = row.values.get("relations") or []
    for relation in relations if isinstance(relations, list) else [relations]:
        parts = cast("list[object]", relation) if isinstance(relation, list) else []
        words = [part for part in parts if isinstance(part, str) and part.strip()]
        if len(parts) != 3 or words != parts:
            raise UserError(
                f'{row.place} must have relations like [["red cup", "left of", "blue plate"]], got {relation!r:.80}: '
                f"{_HINT}"
            )
        yield Relation(*words)


def _training_file(policy: PolicySettings, flux: FluxSettings) -> list[Prompt]:
    """Returns the prompts of the training file; [] if the scene grammar is to be used."""
    if policy.prompts:
        return read_prompt_setting("policy.prompts", policy.prompts)
    if flux.model != EMBEDDED:
        raise SettingsError(
            f"policy.prompts must name a file of prompts for flux.model={flux.model}, got none: {_HINT}"
        )
    return []

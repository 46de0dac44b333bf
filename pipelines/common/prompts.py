"""Where the policy's prompts come from: the scene grammar, or a file of your own."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from actors.types import Prompt, Relation
from conf.flux import EMBEDDED, FluxSettings
from conf.policy import PolicySettings
from conf.settings import Settings
from pipelines.scenes.grammar import held_out_prompts, training_prompts

_MEND = "write one JSON object with 'text' a line; see docs/policy.md"


@dataclass(frozen=True)
class HeldOut:
    """Prompts that training never sees. `long` name two relations or more."""

    short: tuple[Prompt, ...]
    long: tuple[Prompt, ...]

    def __len__(self) -> int:
        return len(self.short) + len(self.long)


def draw_training_prompts(policy: PolicySettings, flux: FluxSettings) -> list[Prompt]:
    """All prompts of a run in the order of use: `iterations` x `prompts_per_step`.

    A file is used from end to end, freshly shuffled each time around. Raises ValueError where there is no source, or
    none that can be read.
    """
    count = policy.iterations * policy.prompts_per_iteration
    pool = _training_file(policy, flux)
    if not pool:
        return training_prompts(count, policy.seed, policy.multi_relation_fraction)
    rng = np.random.default_rng(policy.seed)
    order = np.concatenate([rng.permutation(len(pool)) for _ in range(-(-count // len(pool)))])[:count]
    return [pool[i] for i in order]


def draw_held_out_prompts(policy: PolicySettings, flux: FluxSettings, seed: int) -> HeldOut:
    """The prompts of evaluation during training, half of them long; empty where there is no source.

    Where a file has too few of one kind, such as no long ones because it names no relations, more of the other stand
    in. Raises ValueError where it cannot be read, or the scene grammar has not as many.
    """
    half = policy.evaluation.prompts // 2
    if policy.held_out_prompts:
        pool = _read("policy.held_out_prompts", policy.held_out_prompts)
        short = [prompt for prompt in pool if len(prompt.relations) < 2]
        long = [prompt for prompt in pool if len(prompt.relations) >= 2]
        most_short, most_long = (max(half, 2 * half - len(others)) for others in (long, short))
        return HeldOut(tuple(short[:most_short]), tuple(long[:most_long]))
    if flux.model != EMBEDDED:
        return HeldOut((), ())
    return HeldOut(tuple(held_out_prompts(half, False, seed)), tuple(held_out_prompts(half, True, seed)))


def check_prompts(settings: Settings) -> None:
    """Raises ValueError, naming the setting, the file and the mend, where `draw_training_prompts` or
    `draw_held_out_prompts` would.
    """
    _training_file(settings.policy, settings.flux)
    draw_held_out_prompts(settings.policy, settings.flux, settings.evaluation.seed)


def evaluation_notice(settings: Settings) -> str:
    """What to tell the user of a run that asks for evaluations but has no held-out prompts; "": all is well."""
    policy, model = settings.policy, settings.flux.model
    if not policy.evaluation.every or policy.held_out_prompts or model == EMBEDDED:
        return ""
    return (
        f"policy.evaluation.every={policy.evaluation.every}, but nothing will be evaluated during training, as "
        f"flux.model={model} has no held-out prompts of its own: name a file of them in policy.held_out_prompts"
    )


def _training_file(policy: PolicySettings, flux: FluxSettings) -> list[Prompt]:
    """What the file of training prompts holds; empty: the scene grammar's prompts are meant."""
    if policy.prompts:
        return _read("policy.prompts", policy.prompts)
    if flux.model != EMBEDDED:
        raise ValueError(f"policy.prompts must name a file of prompts for flux.model={flux.model}, got none: {_MEND}")
    return []


def _read(setting: str, location: str) -> list[Prompt]:
    try:
        return read_prompts(Path(location))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ValueError(f"{setting} must name a file that can be read, got {location} ({reason}): {_MEND}") from error
    except ValueError as error:
        raise ValueError(f"{setting}: {error}") from error


def read_prompts(path: Path) -> list[Prompt]:
    """Reads JSON lines {"text": str, "id"?: str, "relations"?: [[subject, relation, object], …]}.

    Raises ValueError, naming file and line, for a line that is not such an object, or a file without any; OSError or
    UnicodeDecodeError for one that cannot be read.
    """
    prompts = []
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            relations = tuple(Relation(*relation) for relation in row.get("relations", ()))
            if not isinstance(row["text"], str):
                raise TypeError(f"text must be a string, got {row['text']!r}")
            prompts.append(Prompt(str(row.get("id", number)), row["text"], relations))
        except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f'{path}:{number} must be a JSON object with a "text", got {line[:80]!r}: {_MEND}'
            ) from error
    if not prompts:
        raise ValueError(f"{path} holds no prompts: {_MEND}")
    return prompts

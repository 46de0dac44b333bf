"""Where the policy's prompts come from: the scene grammar, or a file of your own."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from actors.records import Prompt, Relation
from conf.flux import EMBEDDED, FluxSettings
from conf.policy import PolicySettings
from pipelines.scenes.grammar import held_out_prompts, training_prompts


@dataclass(frozen=True)
class HeldOut:
    """Prompts that training never sees. `long` name two relations or more."""

    short: tuple[Prompt, ...]
    long: tuple[Prompt, ...]

    def __len__(self) -> int:
        return len(self.short) + len(self.long)


def draw_training_prompts(policy: PolicySettings, flux: FluxSettings) -> list[Prompt]:
    """All prompts of a run in the order of use: `iterations` x `prompts_per_step`.

    A file is used from end to end, freshly shuffled each time around. Raises ValueError where there is no source.
    """
    count = policy.iterations * policy.prompts_per_step
    if not policy.prompts:
        if flux.model != EMBEDDED:
            raise ValueError(f"policy.prompts must name a file of prompts for flux.model={flux.model}")
        return training_prompts(count, policy.seed, policy.long_fraction)
    pool = read_prompts(Path(policy.prompts))
    rng = np.random.default_rng(policy.seed)
    order = np.concatenate([rng.permutation(len(pool)) for _ in range(-(-count // len(pool)))])[:count]
    return [pool[i] for i in order]


def draw_held_out_prompts(policy: PolicySettings, flux: FluxSettings, seed: int) -> HeldOut:
    """The prompts of evaluation during training, half of them long; empty where there is no source."""
    half = policy.evaluate_prompts // 2
    if policy.held_out_prompts:
        pool = read_prompts(Path(policy.held_out_prompts))
        short = [prompt for prompt in pool if len(prompt.relations) < 2]
        long = [prompt for prompt in pool if len(prompt.relations) >= 2]
        return HeldOut(tuple(short[:half]), tuple(long[:half]))
    if flux.model != EMBEDDED:
        return HeldOut((), ())
    return HeldOut(tuple(held_out_prompts(half, False, seed)), tuple(held_out_prompts(half, True, seed)))


def read_prompts(path: Path) -> list[Prompt]:
    """Reads JSON lines {"text": str, "id"?: str, "relations"?: [[subject, relation, object], …]}.

    Raises ValueError, naming file and line, for a line that is not such an object, or a file without any.
    """
    prompts = []
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            relations = tuple(Relation(*relation) for relation in row.get("relations", ()))
            prompts.append(Prompt(str(row.get("id", number)), row["text"], relations))
        except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f'{path}:{number} must be a JSON object with a "text", got {line[:80]!r}') from error
    if not prompts:
        raise ValueError(f"{path} holds no prompts: write one JSON object a line")
    return prompts

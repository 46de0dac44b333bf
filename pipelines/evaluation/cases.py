"""What is evaluated and what came of it: one case an image, seen before and after training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from actors.types import Prompt, objects_of
from conf.flux import EMBEDDED
from conf.settings import Settings
from pipelines.common.prompts import read_prompts
from pipelines.common.seeds import sample_seed
from pipelines.scenes.grammar import COLORS, SceneObject, held_out_prompts

SIDES = ("base", "policy")


@dataclass(frozen=True)
class Case:
    """One picture to draw, by the base and by the policy from the same noise."""

    name: str  # of its files, e.g. "0007"
    prompt: Prompt
    seed: int

    @property
    def long(self) -> bool:
        """The prompt asks for two relations or more."""
        return len(self.prompt.relations) > 1

    @property
    def objects(self) -> list[str]:
        """Names of the objects that the relations speak of, in order."""
        return objects_of(self.prompt.relations)


@dataclass(frozen=True)
class Assessment:
    """What one picture shows of its prompt. Without an exact checker only the score is known."""

    score: float  # SpatialScore's mu
    present: Mapping[str, bool]  # object name -> drawn cleanly, exactly once
    outcomes: tuple[str, ...]  # per relation: right | reversed | other | missing
    instead: tuple[str, ...]  # per relation: what is seen instead; "" where it is right

    @property
    def right(self) -> int:
        """Number of relations that hold."""
        return self.outcomes.count("right")

    @property
    def perfect(self) -> bool:
        """Every object is there and every relation holds."""
        return all(self.present.values()) and self.right == len(self.outcomes)


@dataclass(frozen=True)
class Result:
    """A case with both its pictures judged."""

    case: Case
    base: Assessment
    policy: Assessment


def draw_cases(settings: Settings) -> list[Case]:
    """The cases of an evaluation: short prompts first, then long ones, `images_per_prompt` each.

    Prompts come from the scene grammar's held-out side, or from the file `policy.held_out_prompts`. Raises ValueError
    where there is no source.
    """
    own = settings.evaluation
    if settings.policy.held_out_prompts:
        pool = read_prompts(Path(settings.policy.held_out_prompts))
        short = [prompt for prompt in pool if len(prompt.relations) < 2][: own.short_prompts]
        long = [prompt for prompt in pool if len(prompt.relations) > 1][: own.long_prompts]
    elif settings.flux.model == EMBEDDED:
        short = held_out_prompts(own.short_prompts, False, own.seed)
        long = held_out_prompts(own.long_prompts, True, own.seed)
    else:
        raise ValueError(f"policy.held_out_prompts must name a file of prompts for flux.model={settings.flux.model}")
    prompts = [*short, *long]
    if not prompts:
        raise ValueError("there is nothing to evaluate: raise evaluation.short_prompts or evaluation.long_prompts")
    return [
        Case(f"{i * own.images_per_prompt + j:04d}", prompt, sample_seed(own.seed, 0, i, j))
        for i, prompt in enumerate(prompts)
        for j in range(own.images_per_prompt)
    ]


def prompt_row(case: Case) -> dict[str, object]:
    """The case as a line of prompts.jsonl, for any other judge of the pictures."""
    return {
        "file_name": f"{case.name}.png",
        **{side: f"{side}/{case.name}.png" for side in SIDES},
        "text": case.prompt.text,
        "seed": case.seed,
        "objects": [_object_row(name) for name in case.objects],
        "relations": [[r.subject, r.relation, r.object] for r in case.prompt.relations],
    }


def _object_row(name: str) -> dict[str, object]:
    color = name.split()[0]
    if color not in COLORS:
        return {"name": name}
    thing = SceneObject.named(name)
    return {"name": name, "shape": thing.shape, "color": thing.color, "rgb": list(COLORS[thing.color])}

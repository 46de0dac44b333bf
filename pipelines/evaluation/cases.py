"""The cases of an evaluation and their results. A case is one image, made before and after training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from actors.types import Prompt, objects_of
from conf import SettingsError
from conf.flux import EMBEDDED
from conf.settings import Settings
from pipelines.common.prompts import read_prompt_setting
from pipelines.common.seeds import sample_seed
from pipelines.scenes.checker import RelationOutcome
from pipelines.scenes.grammar import COLORS, SceneObject, held_out_prompts

Model = Literal["base", "policy"]
"""The model before training, and the model after training."""

MODELS: tuple[Model, ...] = ("base", "policy")


@dataclass(frozen=True)
class Case:
    """One image to generate, by the base and by the policy from the same noise."""

    name: str  # stem of its files, e.g. "0007"
    prompt: Prompt
    seed: int

    @property
    def long(self) -> bool:
        """Whether the prompt has two relations or more."""
        return len(self.prompt.relations) > 1

    @property
    def objects(self) -> list[str]:
        """Names of the objects in the relations, in order of mention."""
        return objects_of(self.prompt.relations)


@dataclass(frozen=True)
class Assessment:
    """How well one image shows its prompt. Without the exact checker only the score is known."""

    score: float  # SpatialScore's mu
    present: Mapping[str, bool]  # object name -> shown cleanly, exactly once
    outcomes: tuple[RelationOutcome, ...]  # per relation
    instead: tuple[str, ...]  # per relation: what the image shows instead; "" if the relation holds
    unrequested: tuple[str, ...] = ()  # objects that are shown cleanly although the prompt does not name them

    @property
    def num_right(self) -> int:
        """Number of relations that hold."""
        return self.outcomes.count("right")

    @property
    def perfect(self) -> bool:
        """Whether every object of the prompt is present, every relation holds, and no other object is shown."""
        return all(self.present.values()) and self.num_right == len(self.outcomes) and not self.unrequested


@dataclass(frozen=True)
class Result:
    """A case with the assessments of both its images."""

    case: Case
    base: Assessment
    policy: Assessment


def draw_cases(settings: Settings) -> list[Case]:
    """Returns the cases of an evaluation: short prompts first, then long ones, `images_per_prompt` each.

    Prompts come from the file `policy.held_out_prompts`, or else from the held-out prompts of the scene grammar.
    Raises SettingsError if there is no such file for a model that needs one, or if there are no prompts.
    """
    cfg = settings.evaluation
    if settings.policy.held_out_prompts:
        pool = read_prompt_setting("policy.held_out_prompts", settings.policy.held_out_prompts)
        short = [prompt for prompt in pool if len(prompt.relations) < 2][: cfg.short_prompts]
        long = [prompt for prompt in pool if len(prompt.relations) > 1][: cfg.long_prompts]
    elif settings.flux.model == EMBEDDED:
        short = held_out_prompts(cfg.short_prompts, False, cfg.seed)
        long = held_out_prompts(cfg.long_prompts, True, cfg.seed)
    else:
        raise SettingsError(
            f"policy.held_out_prompts must name a file of prompts for flux.model={settings.flux.model}, got none"
        )
    prompts = [*short, *long]
    if not prompts:
        raise SettingsError("there is no prompt to evaluate: raise evaluation.short_prompts or evaluation.long_prompts")
    return [
        Case(f"{i * cfg.images_per_prompt + j:04d}", prompt, sample_seed(cfg.seed, 0, i, j))
        for i, prompt in enumerate(prompts)
        for j in range(cfg.images_per_prompt)
    ]


def prompt_row(case: Case) -> dict[str, object]:
    """Returns the case as a row of prompts.jsonl, so that other programs can assess the images."""
    return {
        "file_name": f"{case.name}.png",
        **{model: f"{model}/{case.name}.png" for model in MODELS},
        "text": case.prompt.text,
        "seed": case.seed,
        "objects": [_object_row(name) for name in case.objects],
        "relations": [[r.subject, r.relation, r.object] for r in case.prompt.relations],
    }


def _object_row(name: str) -> dict[str, object]:
    try:
        obj = SceneObject.named(name)
    except ValueError:  # an object of another world than scenes
        return {"name": name}
    return {"name": name, "shape": obj.shape, "color": obj.color, "rgb": list(COLORS[obj.color])}

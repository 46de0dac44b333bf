"""The actors of evaluation: one draws every case by base and policy and looks at it, one scores it."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np

from actors.files import read_file, write_file
from actors.policy.lora import read_lora
from actors.policy.plan import SamplingPlan
from actors.policy.registry import load_policy
from actors.policy.sampler import sample_before_and_after
from actors.types import Prompt, Relation
from actors.worker_setup import init_worker
from conf.settings import Settings
from pipelines.common.images import decode, encode_png
from pipelines.evaluation.cases import SIDES, Assessment, Case
from pipelines.reward.evaluate import open_scorer
from pipelines.scenes.checker import check, inspect
from pipelines.scenes.grammar import RELATIONS
from pipelines.scenes.render import holds

Batch = dict[str, np.ndarray]


class GenerateImages:
    """Draws cases by the base and by the exported LoRA, from the same noise, and saves the pictures."""

    def __init__(self, model: str, lora: Path, folder: Path, settings: Settings) -> None:
        device = init_worker(settings.policy.rollout.threads, settings.policy.rollout.gpus)
        self._policy = load_policy(model, settings.flux, device)
        self._policy.load_lora(read_lora(lora, settings.flux))
        self._plan = SamplingPlan.for_evaluation(settings.evaluation, settings.policy.sampling.batch)
        self._folder = folder

    def __call__(self, batch: Batch) -> Batch:
        cases: list[Case] = [pickle.loads(packed) for packed in batch["case"]]
        conditioning = self._policy.encode([case.prompt.text for case in cases])
        seeds = [case.seed for case in cases]
        drawn = sample_before_and_after(self._policy, conditioning, seeds, self._plan)
        for side, images in zip(SIDES, drawn, strict=True):
            for case, image in zip(cases, images, strict=True):
                write_file(str(self._folder / side / f"{case.name}.png"), encode_png(image))
        return {"case": batch["case"]}


class ScoreImages:
    """Scores the saved pictures by SpatialScore and, in the scenes world, looks at them with the exact checker."""

    def __init__(self, model: str, folder: Path, exact: bool, settings: Settings) -> None:
        self._scorer = open_scorer(model, settings.serving)
        self._folder, self._exact = folder, exact

    def __call__(self, batch: Batch) -> Batch:
        cases: list[Case] = [pickle.loads(packed) for packed in batch["case"]]
        columns: dict[str, Any] = {"case": batch["case"]}
        for side in SIDES:
            images = [decode(read_file(str(self._folder / side / f"{case.name}.png"))) for case in cases]
            scores = self._scorer.score(images=images, prompts=[case.prompt.text for case in cases])
            sights = [
                inspect_image(image, case.prompt, float(mu)) if self._exact else Assessment(float(mu), {}, (), ())
                for image, case, mu in zip(images, cases, scores.mu, strict=True)
            ]
            columns[side] = np.array([pickle.dumps(sight) for sight in sights], dtype=object)
        return columns


def inspect_image(image: np.ndarray, prompt: Prompt, score: float) -> Assessment:
    """What the exact checker sees in a uint8 [64, 64, 3] picture, and in words what it sees instead of a relation."""
    verdict = check(image, prompt.relations)
    if verdict.perfect:
        return Assessment(score, verdict.present, verdict.outcomes, ("",) * len(verdict.outcomes))
    centres = {found.obj.name: (found.x, found.y) for found in inspect(image)}
    instead = tuple(
        "" if outcome == "right" else seen_instead(relation, centres)
        for relation, outcome in zip(prompt.relations, verdict.outcomes, strict=True)
    )
    return Assessment(score, verdict.present, verdict.outcomes, instead)


def seen_instead(relation: Relation, centres: dict[str, tuple[float, float]]) -> str:
    """In words, how the subject stands to the object; object name -> (x, y) of those that are there, y downwards."""
    absent = [name for name in (relation.subject, relation.object) if name not in centres]
    if absent:
        return f"no clean {' and no clean '.join(absent)}"
    (x, y), (to_x, to_y) = centres[relation.subject], centres[relation.object]
    for word in RELATIONS:
        if holds(word, to_x - x, to_y - y):
            return f"seen {word}"
    return f"seen diagonally {'above' if y < to_y else 'below'}, {'left' if x < to_x else 'right'}"

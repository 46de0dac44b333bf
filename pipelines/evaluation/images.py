"""The Ray Data actors of an evaluation: one generates the images of each case, the other assesses them."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np

from actors.files import read_file, write_file
from actors.images import decode_image
from actors.policy.lora import read_lora
from actors.policy.plan import SamplingPlan
from actors.policy.registry import load_policy
from actors.policy.sampler import sample_before_and_after
from actors.types import Prompt, Relation
from actors.worker_setup import init_worker
from conf.settings import Settings
from pipelines.common.images import encode_png
from pipelines.common.paths import RunPaths
from pipelines.common.worker_log import WorkCounter
from pipelines.evaluation.cases import MODELS, Assessment, Case, Model
from pipelines.reward.served_model import open_scorer
from pipelines.scenes.checker import can_check, check, inspect
from pipelines.scenes.grammar import RELATIONS
from pipelines.scenes.render import holds

Batch = dict[str, np.ndarray]
"""Columns of a Ray Data batch: `case` [B] pickled Case; then `base` and `policy` [B] pickled Assessment."""

GENERATED = "generated"
"""Name of the count of cases whose images are saved."""


class GenerateImages:
    """Generates the images of cases by the base and by the exported LoRA, from the same noise, and saves them."""

    def __init__(self, model: str, paths: RunPaths, settings: Settings, counter: WorkCounter) -> None:
        """`model`: the base, a folder or a name on the Hugging Face hub."""
        device = init_worker(settings.policy.samplers.threads, settings.policy.samplers.gpus)
        self._policy = load_policy(model, settings.flux, device)
        self._policy.load_lora(read_lora(paths.export, settings.flux))
        self._plan = SamplingPlan.for_evaluation(settings.evaluation, settings.policy.sampling.batch)
        self._paths, self._counter = paths, counter

    def __call__(self, batch: Batch) -> Batch:
        """Writes two PNG files per case. Returns the cases."""
        cases: list[Case] = [pickle.loads(packed) for packed in batch["case"]]
        conditioning = self._policy.encode([case.prompt.text for case in cases])
        both = sample_before_and_after(self._policy, conditioning, [case.seed for case in cases], self._plan)
        for model, images in zip(MODELS, both, strict=True):
            for case, image in zip(cases, images, strict=True):
                write_file(str(image_file(self._paths, model, case)), encode_png(image))
        self._counter.add(GENERATED, len(cases))
        return {"case": batch["case"]}


class ScoreImages:
    """Scores the saved images by SpatialScore and, in the scenes world, inspects them with the exact checker."""

    def __init__(self, spatialscore: Path, paths: RunPaths, settings: Settings) -> None:
        self._scorer = open_scorer(str(spatialscore), settings.serving)
        self._paths, self._exact = paths, can_check(settings.flux)

    def __call__(self, batch: Batch) -> Batch:
        """Returns the cases with an Assessment of each of their images."""
        cases: list[Case] = [pickle.loads(packed) for packed in batch["case"]]
        columns: dict[str, Any] = {"case": batch["case"]}
        for model in MODELS:
            images = [decode_image(read_file(str(image_file(self._paths, model, case)))) for case in cases]
            scores = self._scorer.score(images=images, prompts=[case.prompt.text for case in cases])
            assessments = [
                inspect_image(image, case.prompt, float(mu)) if self._exact else Assessment(float(mu), {}, (), ())
                for image, case, mu in zip(images, cases, scores.mu, strict=True)
            ]
            columns[model] = np.array([pickle.dumps(assessment) for assessment in assessments], dtype=object)
        return columns


def image_file(paths: RunPaths, model: Model, case: Case) -> Path:
    """Returns the PNG file of a case by one model."""
    return paths.evaluation_images(model) / f"{case.name}.png"


def inspect_image(image: np.ndarray, prompt: Prompt, score: float) -> Assessment:
    """Assesses an image, uint8 [64, 64, 3], with the exact checker. `score` is its SpatialScore."""
    verdict = check(image, prompt.relations)
    centres = {found.obj.name: (found.x, found.y) for found in inspect(image)}
    instead = tuple(
        "" if outcome == "right" else describe_instead(relation, centres)
        for relation, outcome in zip(prompt.relations, verdict.outcomes, strict=True)
    )
    return Assessment(score, verdict.present, verdict.outcomes, instead, verdict.unrequested)


def describe_instead(relation: Relation, centres: dict[str, tuple[float, float]]) -> str:
    """Describes how the subject is placed relative to the object.

    `centres`: name -> (x, y) in pixels of the objects that are present. y points downwards.
    """
    absent = [name for name in (relation.subject, relation.object) if name not in centres]
    if absent:
        return f"no clean {' and no clean '.join(absent)}"
    (x, y), (to_x, to_y) = centres[relation.subject], centres[relation.object]
    for word in RELATIONS:
        if holds(word, to_x - x, to_y - y):
            return f"seen {word}"
    return f"seen diagonally {'above' if y < to_y else 'below'}, {'left' if x < to_x else 'right'}"

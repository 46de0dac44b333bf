"""Measures the images of an evaluation beside SpatialScore and the exact checker: statistics and other rewards."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

import numpy as np

from conf.settings import Settings
from pipelines.common.paths import RunPaths
from pipelines.evaluation.cases import MODELS, Model, Result
from pipelines.evaluation.image_tasks import diversity_remotely, load_images
from pipelines.evaluation.images import image_file
from pipelines.evaluation.what_changed import Values, WhatChanged, what_changed
from pipelines.policy.measures import joined, measure_remotely
from pipelines.policy.reward_mix import RewardMix
from pipelines.policy.rewards import start_rewards

BATCHES = 4
"""Batches of images that are measured at once."""
SPATIALSCORE = "spatialscore"
"""Kind of the reward whose scores the evaluation has already."""


def measure_changes(results: Sequence[Result], paths: RunPaths, settings: Settings) -> WhatChanged | None:
    """Measures the saved images of base and policy, and compares them. None if the trained reward is not known.

    Starts the run's rewards other than SpatialScore, and stops them. Ray must be initialised.
    """
    others, prompts = other_rewards(settings), [result.case.prompt for result in results]
    rewards = start_rewards(settings, others, prompts) if others else None
    try:
        found = asyncio.run(_measure_both(results, paths, settings, rewards))
    finally:
        if rewards:
            rewards.stop()
    return compare(results, found, settings)


def other_rewards(settings: Settings) -> list[str]:
    """Names of the run's rewards other than SpatialScore, with those that are only watched."""
    return [name for name, term in settings.used_rewards().items() if term.kind_of(name) != SPATIALSCORE]


def compare(
    results: Sequence[Result], found: Mapping[Model, Mapping[str, np.ndarray]], settings: Settings
) -> WhatChanged | None:
    """The comparison of all measures. `found`: model -> measure -> its values [N], of the diversity one a prompt."""
    values: dict[str, Values] = {
        name: {model: found[model][name] for model in MODELS} for name in found["base"] if name in found["policy"]
    }
    if any(result.base.outcomes for result in results):
        values["fully_correct"] = {
            model: np.array([float(getattr(result, model).perfect) for result in results]) for model in MODELS
        }
    scores: Values = {model: np.array([getattr(result, model).score for result in results]) for model in MODELS}
    trained: dict[Model, np.ndarray] = {model: np.zeros(len(results)) for model in MODELS}
    for name, term in settings.used_rewards().items():
        part = scores if term.kind_of(name) == SPATIALSCORE else values[name]
        for model in MODELS:
            trained[model] += term.weight * part[model] if term.weight else 0.0
    texts = [result.case.prompt.text for result in results]
    prompts = {name: texts if len(each["base"]) == len(texts) else [*_pairs(results)] for name, each in values.items()}
    return what_changed(trained, values, prompts | {"reward": texts}, settings.evaluation.seed)


async def _measure_both(
    results: Sequence[Result], paths: RunPaths, settings: Settings, rewards: RewardMix | None
) -> dict[Model, dict[str, np.ndarray]]:
    limit, size = asyncio.Semaphore(BATCHES), settings.evaluation.batch_prompts * settings.evaluation.images_per_prompt

    async def one(model: Model, part: Sequence[Result]) -> dict[str, np.ndarray]:
        async with limit:
            images = load_images.remote([str(image_file(paths, model, result.case)) for result in part])
            found = await measure_remotely.remote(images)
            if rewards:
                parts = await rewards.parts(images, tuple(result.case.prompt.text for result in part))
                found |= {name: each.mu for name, each in parts.items()}
            return found

    async def all_of(model: Model) -> dict[str, np.ndarray]:
        parts = [results[first : first + size] for first in range(0, len(results), size)]
        found = joined(await asyncio.gather(*(one(model, part) for part in parts)))
        if pairs := _pairs(results):
            files = [[str(image_file(paths, model, pair[n].case)) for pair in pairs.values()] for n in (0, 1)]
            found["diversity"] = await diversity_remotely.remote(*files)
        return found

    base, policy = await asyncio.gather(*(all_of(model) for model in MODELS))
    return {"base": base, "policy": policy}


def _pairs(results: Sequence[Result]) -> dict[str, list[Result]]:
    """Prompt -> its first two cases, if it has two."""
    cases: dict[str, list[Result]] = {}
    for result in results:
        cases.setdefault(result.case.prompt.text, []).append(result)
    return {text: each[:2] for text, each in cases.items() if len(each) > 1}

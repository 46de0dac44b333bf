"""Trains the tiny FLUX to show the objects of the prompt, by GRPO with the exact checker's count of objects as reward.

Flow matching sometimes leaves the model undecided between two colours or positions; in few denoise steps it then
generates a blend or a double. A reward for objects alone corrects most of these errors. It ignores relations, so the
model stays weak there.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from diffusers import FluxPipeline, FluxTransformer2DModel

from conf.flux import FluxSettings
from conf.policy import ExportSettings, PolicyOptimizerSettings, PolicySettings, TrainEvaluationSettings
from conf.settings import Settings
from pipelines.common.paths import run_paths
from pipelines.policy.rewards import start_rules
from pipelines.policy.train import train_policy
from pipelines.scenes.grammar import training_prompts

ITERATIONS = 110
LONG_FRACTION = 0.6
"""Fraction of prompts with three objects. The model forgets objects in these prompts most often."""


def train_on_objects(
    pipeline: FluxPipeline, folder: Path, seconds: float, seed: int, log: Callable[[str], None]
) -> FluxTransformer2DModel:
    """Trains a LoRA for up to ITERATIONS iterations and returns the transformer with the LoRA merged.

    `folder` becomes a run directory; an interrupted run in it is resumed. Ray must be initialised.
    """
    base, prompts = folder / "base", folder / "prompts.jsonl"
    pipeline.save_pretrained(base)
    policy = PolicySettings(
        iterations=ITERATIONS,
        minutes=seconds / 60,
        seed=seed,
        prompts=str(prompts),
        prompts_per_iteration=24,
        evaluation=TrainEvaluationSettings(every=0),
        optimizer=PolicyOptimizerSettings(lr=2e-3),
    )
    texts = [prompt.text for prompt in training_prompts(ITERATIONS * policy.prompts_per_iteration, seed, LONG_FRACTION)]
    prompts.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    settings = Settings(
        run_dir=str(folder),
        flux=FluxSettings(model=str(base)),
        policy=policy,
        export=ExportSettings(merged=True),
    )
    rewards = start_rules(settings, relations=False)
    try:
        train_policy(settings, rewards, log)
    finally:
        rewards.stop()
    return FluxTransformer2DModel.from_pretrained(run_paths(settings).merged / "transformer")

"""The tiny FLUX learns to draw what it was asked for, wherever: GRPO against the exact checker's count of objects.

Flow matching leaves it undecided between two colours or places now and then, and what it draws in few steps is then
a blend or a double. A reward for the objects alone mends much of that. It does not look at relations: those stay weak.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from diffusers import FluxPipeline, FluxTransformer2DModel

from conf.flux import FluxSettings
from conf.policy import ExportSettings, PolicyOptimizerSettings, PolicySettings, TrainEvaluationSettings
from conf.settings import Settings
from pipelines.policy.rewards import RewardMix, start_rules
from pipelines.policy.train import train_policy
from pipelines.scenes.grammar import training_prompts

VERSIONS = 110
LONG_FRACTION = 0.6
"""Share of prompts with three objects or more: those are the ones it forgets."""


def train_on_objects(
    pipeline: FluxPipeline, folder: Path, seconds: float, seed: int, log: Callable[[str], None]
) -> FluxTransformer2DModel:
    """Trains up to `VERSIONS` versions of a LoRA in `folder` and returns the transformer with the LoRA folded in.

    Ray must be initialised. A call for a folder whose training was killed goes on from there.
    """
    base, prompts = folder / "base", folder / "prompts.jsonl"
    pipeline.save_pretrained(base)
    policy = PolicySettings(
        iterations=VERSIONS,
        minutes=seconds / 60,
        seed=seed,
        prompts=str(prompts),
        prompts_per_iteration=24,
        evaluation=TrainEvaluationSettings(every=0),
        optimizer=PolicyOptimizerSettings(lr=2e-3),
    )
    drawn = training_prompts(VERSIONS * policy.prompts_per_iteration, seed, LONG_FRACTION)
    prompts.write_text("".join(json.dumps({"text": prompt.text}) + "\n" for prompt in drawn))
    settings = Settings(
        run_dir=str(folder),
        flux=FluxSettings(model=str(base)),
        policy=policy,
        export=ExportSettings(merged=True),
    )
    rewards = RewardMix([start_rules(settings, 1.0, relations=False)])
    try:
        train_policy(settings, rewards, log)
    finally:
        rewards.stop()
    return FluxTransformer2DModel.from_pretrained(folder / "policy" / "merged" / "transformer")

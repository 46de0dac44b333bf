# pyright: reportAttributeAccessIssue=false, reportArgumentType=false
# (the model libraries leave their configurations and outputs untyped)
"""The last of FLUX's phases: top-k GRPO for whole objects, wherever they stand.

Flow matching leaves a small network undecided where to put things: it draws some twice and some not at all. So stage 3
itself is run on it, with the exact checker's count of clean objects for its reward, and the LoRA is merged. Relations
are not rewarded: an object counts in any place. As a cleaner picture holds more relations all the same, the text
encoders' words for them are first blurred, so that the base stays as unsure about places as its big sister.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import torch
from diffusers import FluxPipeline, FluxTransformer2DModel
from ray import serve

from actors.process import actor_options
from actors.reward import serve_replicas
from conf.flux import FluxSettings
from conf.policy import PolicySettings
from conf.settings import Settings
from pipelines.policy.reward_mix import RewardMix
from pipelines.policy.train import train_policy
from pipelines.scenes.grammar import training_prompts
from pipelines.scenes.rule_reward import RulesReplica

PROMPTS, LONG_FRACTION = 4000, 0.75
SECONDS_PER_ITERATION = (
    3.0  # on two idle cores; the number of iterations is fixed, so that a busy machine tunes as well
)


def blur_relations(pipeline: FluxPipeline, share: float) -> None:
    """Moves the embeddings of left, right, above and below towards their mean, in both text encoders, by `share`."""
    words = [pipeline.tokenizer_2.convert_tokens_to_ids(word) for word in ("left", "right", "above", "below")]
    for encoder in (pipeline.text_encoder, pipeline.text_encoder_2):
        embeddings = encoder.get_input_embeddings().weight.data
        embeddings[words] = torch.lerp(embeddings[words], embeddings[words].mean(0), share)


def tune_for_objects(
    base: FluxPipeline, folder: Path, seconds: float, seed: int, report: Callable[[str], None]
) -> FluxTransformer2DModel:
    """Trains `base` in the run directory `folder` and returns its transformer with the LoRA merged.

    `seconds` is how long that takes on two idle cores. Ray must be initialised. Called again with a folder that an
    interrupted call left, it resumes there.
    """
    base.save_pretrained(folder / "base")
    prompts = folder / "prompts.jsonl"
    rows = ({"id": prompt.id, "text": prompt.text} for prompt in training_prompts(PROMPTS, seed, LONG_FRACTION))
    prompts.write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = Settings(
        run_dir=str(folder),
        flux=FluxSettings(model=str(folder / "base")),
        policy=PolicySettings(
            iterations=max(1, round(seconds / SECONDS_PER_ITERATION)), minutes=0, seed=seed,
            prompts=str(prompts), evaluate_every=0,
        ),
    )  # fmt: skip
    replica = serve.deployment(RulesReplica, ray_actor_options=actor_options(1, 0.1, 0))
    pool = serve_replicas(replica.bind(relations=False), "objects", RulesReplica.__name__, retries=8)
    reward = RewardMix([(1.0, pool)])
    try:
        result = train_policy(settings, reward, report)
    finally:
        reward.stop()
    tuned = FluxPipeline.from_pretrained(folder / "base", torch_dtype=torch.float32)
    tuned.load_lora_weights(result.export)
    tuned.fuse_lora()
    tuned.unload_lora_weights()
    return tuned.transformer

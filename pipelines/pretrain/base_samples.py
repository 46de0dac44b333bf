"""What the base FLUX draws, with what the checker sees in it: pictures for the Qwen2.5-VL to be asked about.

The renderer's pictures are flawless. FLUX's are not: objects are smeared, merged, doubled or left out. A VLM that has
seen none of that guesses, and a SpatialScore built on it is unsure of the pictures that it is there to judge.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from actors.policy.flux import FluxPolicy
from conf.settings import Settings
from pipelines.preferences.pipeline import sampling_plans
from pipelines.preferences.roles.policy_generator import generate_with_base
from pipelines.pretrain.vae import write_scenes
from pipelines.pretrain.vqa_batches import SceneImage
from pipelines.scenes.checker import inspect
from pipelines.scenes.render import Placement

BATCH = 48


def sample_base_images(flux: Path, count: int, seed: int) -> list[SceneImage]:
    """About `count` pictures of training prompts by the FluxPipeline directory `flux`.

    They are drawn as stage 1 draws its pairs: without noise and, every other batch, with it. Pictures in which the
    checker finds no object are left out: there is nothing to ask about.
    """
    settings, rng = Settings(), np.random.default_rng(seed)
    policy, plans = FluxPolicy.from_pretrained(str(flux), settings.flux), sampling_plans(settings)
    pictures: list[SceneImage] = []
    for number in range(-(-count // BATCH)):
        scenes = write_scenes(BATCH, rng)
        seeds = [int(each) for each in rng.integers(2**62, size=BATCH)]
        images = generate_with_base(policy, [scene.text for scene in scenes], seeds, plans[number % len(plans)])
        for scene, image in zip(scenes, images, strict=True):
            seen = inspect(image)
            names = {found.obj for found in seen}
            missing = tuple(thing for thing in scene.objects if thing not in names)
            if seen:
                pictures.append(SceneImage(tuple(Placement(f.obj, f.x, f.y) for f in seen), image, missing))
    return pictures

"""Images of the base FLUX with the objects that the checker finds in them. Qwen2.5-VL is asked about them.

Rendered images have no errors. FLUX's images have smeared, merged, doubled and missing objects. A VLM that was trained
on rendered images alone guesses on such images, and so does a SpatialScore that is built on it.
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
    """Generates about `count` images of training prompts with the FluxPipeline directory `flux`.

    Sampling is that of stage 1's pairs: every other batch is sampled with noise. Images in which the checker finds no
    object are left out, because there is nothing to ask about.
    """
    settings, rng = Settings(), np.random.default_rng(seed)
    policy, plans = FluxPolicy.from_pretrained(str(flux), settings.flux), sampling_plans(settings)
    samples: list[SceneImage] = []
    for number in range(-(-count // BATCH)):
        scenes = write_scenes(BATCH, rng)
        seeds = [int(each) for each in rng.integers(2**62, size=BATCH)]
        images = generate_with_base(policy, [scene.text for scene in scenes], seeds, plans[number % len(plans)])
        for scene, image in zip(scenes, images, strict=True):
            found = inspect(image)
            present = {each.obj for each in found}
            missing = tuple(obj for obj in scene.objects if obj not in present)
            if found:
                samples.append(SceneImage(tuple(Placement(f.obj, f.x, f.y) for f in found), image, missing))
    return samples

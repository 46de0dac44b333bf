"""Ray tasks that read the images of an evaluation. Their processes import no model library."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import ray

from actors.files import read_file
from actors.images import decode_image
from pipelines.policy.image_statistics import diversity


def read_images(files: Sequence[str]) -> np.ndarray:
    """The images of files of one size, uint8 [B, H, W, 3]."""
    return np.stack([decode_image(read_file(file)) for file in files])


load_images = ray.remote(num_cpus=0.1, max_retries=3)(read_images)


@ray.remote(num_cpus=0.1, max_retries=3)
def diversity_remotely(first: Sequence[str], second: Sequence[str]) -> np.ndarray:
    """The diversity of each prompt, from the files of its two images."""
    return diversity(read_images(first), read_images(second))

"""The seed of every image of a run. A seed depends on what the image is for and on nothing else."""

from __future__ import annotations

import numpy as np


def sample_seed(run: int, iteration: int, prompt: int, sample: int) -> int:
    """Returns the seed of one image, an integer below 2^63.

    It is a function of (run, iteration, prompt, sample) and never of the actor that samples the image. Seeds of
    neighbouring arguments are independent.
    """
    entropy = (run, iteration, prompt, sample)
    return int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0] >> np.uint64(1))


def group_seeds(run: int, iteration: int, prompt: int, group_size: int) -> tuple[int, ...]:
    """Returns the seeds of the G images of one prompt."""
    return tuple(sample_seed(run, iteration, prompt, sample) for sample in range(group_size))

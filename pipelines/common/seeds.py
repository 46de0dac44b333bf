"""Every seed of a run, from what it is for and from nothing else."""

from __future__ import annotations

import numpy as np


def sample_seed(run: int, step: int, prompt: int, sample: int) -> int:
    """The seed of one image: a function of (run, step, prompt, sample), never of the actor that draws it.

    Returns an integer below 2^63, well mixed even for neighbouring arguments.
    """
    return int(np.random.SeedSequence((run, step, prompt, sample)).generate_state(1, np.uint64)[0] >> np.uint64(1))


def group_seeds(run: int, step: int, prompt: int, group_size: int) -> tuple[int, ...]:
    """The seeds of one prompt's group."""
    return tuple(sample_seed(run, step, prompt, sample) for sample in range(group_size))

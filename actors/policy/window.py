"""Extension `policy.sampling.window`: only a few consecutive denoise steps draw noise and are trained.

All other steps are ODE steps. Sources: MixGRPO (arXiv 2507.21802) slides the window; Flow-GRPO-Fast draws it at random.
"""

from __future__ import annotations

import numpy as np

from conf.policy import SamplingSettings


def window_steps(sampling: SamplingSettings, seed: int, iteration: int) -> tuple[int, ...]:
    """The denoise steps of the window in one iteration, `sampling.window` of them in ascending order."""
    positions = sampling.max_noise_steps - sampling.window + 1  # first steps that the window can have
    start = window_start(sampling, seed, iteration, positions)
    return tuple(range(start, start + sampling.window))


def window_start(sampling: SamplingSettings, seed: int, iteration: int, positions: int) -> int:
    """The first denoise step of the window, in 0..positions-1.

    first: always the noisiest steps. sliding: the window moves by one step every `window_stride` iterations and starts
    over after the last position. random: drawn for each iteration from the run's seed; Flow-GRPO-Fast draws from the
    first half of the steps only, as `clean_steps` of half of the steps does.
    """
    match sampling.window_position:
        case "first":
            return 0
        case "sliding":
            return iteration // sampling.window_stride % positions
        case "random":
            return int(np.random.default_rng([seed, iteration]).integers(positions))

"""Extension `policy.algorithm.advantage_std_over=batch`: one std for all groups of an optimizer step.

Flow-GRPO calls it `global_std`. A prompt whose images hardly differ then gets small advantages, instead of having its
noise made large. Without a KL term the loss is proportional to the advantages. Therefore each group is learned with
centred scores (r - mean) as soon as it is scored, and the optimizer step divides the whole gradient by this std.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from torch import nn

from actors.grpo.advantages import STD_EPSILON, Advantages


def batch_std(groups: Sequence[tuple[np.ndarray, Advantages]], mean_over: Literal["selected", "group"]) -> float:
    """The population std of the scores of all groups of an optimizer step, plus 1e-4.

    Each group gives its scores [G] and its advantages. `mean_over` is `policy.algorithm.advantage_mean_over`: the std
    is over the selected scores or over all finite scores. Skipped groups do not count. 1e-4 if all are skipped.
    """
    parts = [
        scores[list(group.kept)] if mean_over == "selected" else scores[np.isfinite(scores)]
        for scores, group in groups
        if not group.skipped
    ]
    return (float(np.concatenate(parts).astype(np.float64).std()) if parts else 0.0) + STD_EPSILON


def divide_gradients(parameters: Sequence[nn.Parameter], divisor: float) -> None:
    """Divides the gradient of each parameter in place; parameters without a gradient stay as they are."""
    for parameter in parameters:
        if parameter.grad is not None:
            parameter.grad /= divisor

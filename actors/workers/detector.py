"""The detector's reward as a replica of Ray Serve."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from actors.rewards.detector import DetectorReward
from actors.types import Scores
from actors.workers.faults import ends_on_device_fault


@ends_on_device_fault("detector", survives=("out_of_memory",))
class DetectorReplica(DetectorReward):
    """A DetectorReward whose process ends if its device fails. Serve starts another one."""

    def score(self, images: np.ndarray | Sequence[np.ndarray], prompts: Sequence[str]) -> Scores:
        """See DetectorReward."""
        return super().score(images, prompts)

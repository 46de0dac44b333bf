"""`spatialt2i evaluate`."""

from __future__ import annotations

from conf import Settings
from pipelines.common.ray_session import ray_session
from pipelines.evaluation.run import evaluate


def run(settings: Settings) -> None:
    """Draws, judges and reports the held-out prompts before and after."""
    with ray_session(settings):
        print(evaluate(settings))

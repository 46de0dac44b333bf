"""`spatialt2i evaluate`."""

from __future__ import annotations

from conf import Settings
from pipelines.common.ray_session import ray_session
from pipelines.evaluation.run import evaluate


def run(settings: Settings) -> None:
    """Evaluates the trained policy against its base on held-out prompts and prints the main tables."""
    with ray_session(settings):
        print(evaluate(settings))

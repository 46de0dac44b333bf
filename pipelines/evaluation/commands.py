"""`spatialt2i evaluate`."""

from __future__ import annotations

from conf import Settings
from pipelines.common.ray_session import ray_session
from pipelines.common.run_folder import driving
from pipelines.evaluation.cases import draw_cases
from pipelines.evaluation.run import evaluate, require_earlier_stages


def run(settings: Settings) -> None:
    """Evaluates the trained policy against its base on held-out prompts and prints the main tables."""
    require_earlier_stages(settings)
    draw_cases(settings)  # raises SettingsError, before Ray starts, if there are no prompts
    with driving(settings, "evaluation"), ray_session(settings):
        result = evaluate(settings)
    print(f"{result}\nOpen {result.report} in a browser.")

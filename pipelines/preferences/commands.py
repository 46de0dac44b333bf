"""`spatialt2i preferences build`."""

from __future__ import annotations

from actors.services.budget import BudgetReached
from conf import Settings
from pipelines.common.ray_session import ray_session
from pipelines.common.run_folder import driving
from pipelines.preferences.build import IncompleteBuildError, build_preferences, open_folder


def build(settings: Settings) -> None:
    """Builds the run's preference pairs. Raises SystemExit with code 1 if the budget or a service ended it early."""
    open_folder(settings)  # before Ray starts
    with driving(settings, "preferences"), ray_session(settings):
        try:
            print(build_preferences(settings))
        except (BudgetReached, IncompleteBuildError) as error:
            raise SystemExit(f"preferences  {error}") from None

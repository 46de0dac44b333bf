"""`spatialt2i preferences …`."""

from __future__ import annotations

from actors.services.budget import BudgetReached
from conf import Settings
from pipelines.common.ray_session import ray_session
from pipelines.preferences.build import RowsLeft, build_preferences


def build(settings: Settings) -> None:
    """Writes the run's preference pairs. Raises SystemExit, with the mend, if budget or a service ended it early."""
    with ray_session(settings):
        try:
            print(build_preferences(settings))
        except (BudgetReached, RowsLeft) as early:
            raise SystemExit(f"preferences  {early}") from None

"""`spatialt2i preferences plan`, `preferences build` and `preferences extend`."""

from __future__ import annotations

from actors.services.budget import BudgetReached
from conf import Settings
from pipelines.common.ray_session import ray_session
from pipelines.common.run_folder import driving
from pipelines.preferences.build import IncompleteBuildError, build_preferences, open_folder
from pipelines.preferences.cost import campaign_cost, cost_report
from pipelines.preferences.extend import extend_preferences


def plan(settings: Settings) -> None:
    """Prints what the run's stage 1 will cost."""
    print(cost_report(campaign_cost(settings), settings))


def extend(settings: Settings) -> None:
    """Adds candidates until enough pairs are accepted. Raises SystemExit as `build`."""
    open_folder(settings)
    with driving(settings, "preferences"), ray_session(settings):
        try:
            count = extend_preferences(settings)
        except (BudgetReached, IncompleteBuildError) as error:
            raise SystemExit(f"preferences  {error}") from None
    if count.waiting:
        print(f"preferences  {count.waiting} pairs wait for annotators: `spatialt2i preferences review`, then extend")


def build(settings: Settings) -> None:
    """Builds the run's preference pairs. Raises SystemExit with code 1 if the budget or a service ended it early."""
    open_folder(settings)  # before Ray starts
    with driving(settings, "preferences"), ray_session(settings):
        try:
            print(build_preferences(settings))
        except (BudgetReached, IncompleteBuildError) as error:
            raise SystemExit(f"preferences  {error}") from None

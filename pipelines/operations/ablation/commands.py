"""`spatialt2i ablation`."""

from __future__ import annotations

from conf import Settings
from pipelines.common.paths import run_paths
from pipelines.common.ray_session import ray_session
from pipelines.common.run_folder import driving
from pipelines.operations.ablation.run import run_ablation
from pipelines.policy.train import check_spatialscore


def run(settings: Settings) -> None:
    """Trains the variants that are missing and prints the tables."""
    check_spatialscore(settings)
    with driving(settings), ray_session(settings):
        run_ablation(settings)
    paths = run_paths(settings)
    print(f"\n{paths.ablation_table.read_text()}\nwrote {paths.ablation_report} and {paths.ablation_table}")

"""`spatialt2i ablation`."""

from __future__ import annotations

from conf import Settings
from pipelines.common.ray_session import ray_session
from pipelines.operations.ablation.run import run_ablation


def run(settings: Settings) -> None:
    """Trains the variants that are missing and prints the table."""
    with ray_session(settings):
        report = run_ablation(settings)
    print(f"\n{report.with_suffix('.md').read_text()}\nwrote {report} and {report.with_suffix('.md')}")

"""`spatialt2i ablation`."""

from __future__ import annotations

from conf import Settings
from pipelines.ablation.run import run_ablation
from pipelines.cluster import cluster


def run(settings: Settings) -> None:
    """Trains the variants that are missing and prints the table."""
    with cluster(settings):
        report = run_ablation(settings)
    print(f"\n{report.with_suffix('.md').read_text()}\nwrote {report} and {report.with_suffix('.md')}")

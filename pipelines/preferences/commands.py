"""`spatialt2i preferences …`."""

from __future__ import annotations

from conf import Settings
from pipelines.cluster import cluster
from pipelines.preferences.build import build_preferences


def build(settings: Settings) -> None:
    """Writes the run's preference pairs."""
    with cluster(settings):
        print(build_preferences(settings))

"""`spatialt2i scenes …`."""

from __future__ import annotations

from conf import Settings
from pipelines.cluster import cluster
from pipelines.scenes.error_rate import print_error_rates
from pipelines.scenes.pretrain import pretrain as make_checkpoints


def pretrain(settings: Settings) -> None:
    """Makes the tiny checkpoints."""
    with cluster(settings):
        make_checkpoints(settings.pretrain)


def check(settings: Settings) -> None:
    """Measures the exact checker."""
    print_error_rates()

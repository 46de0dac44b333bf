"""`spatialt2i scenes …`."""

from __future__ import annotations

from conf import Settings
from pipelines.common.ray_session import ray_session
from pipelines.pretrain.checker_error import print_error_rates
from pipelines.pretrain.run import pretrain as make_checkpoints


def pretrain(settings: Settings) -> None:
    """Trains the tiny checkpoints."""
    with ray_session(settings):
        make_checkpoints(settings.pretrain)


def check(settings: Settings) -> None:
    """Measures the error rate of the exact checker."""
    print_error_rates()

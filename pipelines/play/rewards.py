"""The rewards whose scores the page shows, each a pool of one replica. To show another one, add it to `start_shown`."""

from __future__ import annotations

from dataclasses import replace

from actors.workers.reward import RewardPool, start_pool
from conf.settings import Settings
from pipelines.common.paths import spatialscore_folder
from pipelines.common.resources import ResourceRequest
from pipelines.policy.resources import spatialscore_request
from pipelines.reward.served_model import served_model

SPATIALSCORE = "SpatialScore"


def shown_rewards(settings: Settings) -> dict[str, ResourceRequest]:
    """Name on the page -> what its replica requests. Without a SpatialScore the page shows images alone."""
    if not spatialscore_folder(settings).is_dir():
        return {}
    return {SPATIALSCORE: replace(spatialscore_request(settings.serving), count=1)}


def start_shown(settings: Settings, owner: str) -> dict[str, RewardPool]:
    """Starts a pool for each of `shown_rewards` and waits until all answer. `owner` names them in Serve."""
    serving = replace(settings.serving, min_replicas=1, max_replicas=1, http=False)
    starts = {SPATIALSCORE: lambda: start_pool(serving, served_model(settings), owner)}
    return {name: starts[name]() for name in shown_rewards(settings)}

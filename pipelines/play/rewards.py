"""The rewards whose scores the page shows: SpatialScore and all others of the run, trained on or watched.

Rewards that know the relations of the run's own prompts only are left out.
"""

from __future__ import annotations

from dataclasses import replace

from actors.workers.reward import RewardPool
from conf.rewards import KINDS_BY_RELATIONS, RewardTerm
from conf.settings import Settings
from pipelines.common.paths import spatialscore_folder
from pipelines.common.resources import ResourceRequest
from pipelines.policy.resources import reward_request
from pipelines.policy.rewards import prepare_reward
from pipelines.reward.served_model import served_model

SPATIALSCORE = "spatialscore"
TITLES = {SPATIALSCORE: "SpatialScore"}
"""Name of a reward -> what the page calls it, if not by its name."""


def shown_rewards(settings: Settings) -> dict[str, ResourceRequest]:
    """Name on the page -> what its one replica requests. A run without a SpatialScore shows its other rewards alone."""
    return {
        TITLES.get(name, name): replace(reward_request(settings, name, term), count=1)
        for name, term in _terms(settings).items()
    }


def start_shown(settings: Settings, owner: str) -> dict[str, RewardPool]:
    """Starts a pool for each of `shown_rewards` and waits until all answer. `owner` names them in Serve.

    Raises UserError if one of them cannot be started, before the first one starts where that can be known.
    """
    terms = {name: replace(term, min_replicas=1, max_replicas=1) for name, term in _terms(settings).items()}
    model = served_model(settings) if SPATIALSCORE in terms else ""
    serving = replace(settings.serving, model=model, min_replicas=1, max_replicas=1, http=False)
    own = replace(settings, run_dir=owner, serving=serving)
    starts = {name: prepare_reward(own, name, term) for name, term in terms.items()}
    pools: dict[str, RewardPool] = {}
    try:
        for name, start in starts.items():
            pools[TITLES.get(name, name)] = start()
    except BaseException:  # nothing may be left on a cluster that goes on
        for pool in pools.values():
            pool.stop()
        raise
    return pools


def _terms(settings: Settings) -> dict[str, RewardTerm]:
    """The rewards by their names in the settings, SpatialScore first."""
    has_model = spatialscore_folder(settings).is_dir()
    others = {name: term for name, term in settings.used_rewards().items() if term.kind_of(name) != SPATIALSCORE}
    shown = {name: term for name, term in others.items() if term.kind_of(name) not in KINDS_BY_RELATIONS}
    return {SPATIALSCORE: RewardTerm(), **shown} if has_model else shown

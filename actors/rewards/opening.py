"""Opens a reward whose settings are those of its name in section `rewards`."""

from __future__ import annotations

from collections.abc import Mapping

from actors.rewards.base import Reward
from actors.rewards.scorers import SCORERS, ScorerContext, open_scorer
from actors.services.keys import Key
from actors.types import Relation
from conf.rewards import RewardTerm


def open_reward(
    name: str, term: RewardTerm, token: Key | None, folder: str, relations: Mapping[str, tuple[Relation, ...]]
) -> Reward:
    """The reward called `name`.

    `token`: of its service. `folder`: where your own modules are found, too. `relations`: see DepthRulesReward.
    Raises RewardError, or another UserError, if it cannot be opened.
    """
    kind = term.kind_of(name)
    if kind in SCORERS:
        from actors.worker_setup import init_worker

        device = init_worker(term.threads, term.gpus)
        model = term.model or SCORERS[kind].model
        return open_scorer(kind, ScorerContext(model, str(device), term.batch_images, term.revision))
    if kind == "depth_rules":
        from actors.rewards.depth_rules import DepthRulesReward
        from actors.worker_setup import init_worker

        return DepthRulesReward(term, str(init_worker(term.threads, term.gpus)), relations)
    if kind == "python":
        from actors.rewards.python_reward import PythonReward

        return PythonReward(name, term.path, folder)
    from actors.rewards.http_reward import HttpReward

    return HttpReward(name, term, token)

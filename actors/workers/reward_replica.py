"""Any reward of section `rewards` as replicas of Ray Serve, with resources and a runtime environment of its own."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Mapping, Sequence

import numpy as np
from ray import serve

from actors.rewards.opening import open_reward
from actors.rewards.scorers import SCORERS, runtime_env_of
from actors.services.keys import Key
from actors.types import Relation, Scores
from actors.worker_setup import actor_options
from actors.workers.faults import ends_on_device_fault
from actors.workers.reward import autoscaling_config
from conf.rewards import RewardTerm
from conf.serving import ServingSettings


@ends_on_device_fault("reward", survives=("out_of_memory",))
class RewardReplica:
    """One replica of a reward. Its process ends if its device fails, and Serve starts another one."""

    def __init__(
        self,
        name: str,
        term: RewardTerm,
        token: Key | None,
        folder: str,
        relations: Mapping[str, tuple[Relation, ...]],
    ) -> None:
        """See `open_reward`."""
        self._reward = open_reward(name, term, token, folder, relations)
        self._turn = asyncio.Lock()

    async def score(self, images: np.ndarray | Sequence[np.ndarray], prompts: Sequence[str]) -> Scores:
        """See Reward. A reward that is no coroutine scores one call at a time, in a thread beside the health checks."""
        if inspect.iscoroutinefunction(self._reward.score):
            return await self._reward.score(images, prompts)
        async with self._turn:
            scores = await asyncio.to_thread(self._reward.score, images, prompts)
        return await scores if inspect.isawaitable(scores) else scores


def reward_application(
    name: str,
    term: RewardTerm,
    token: Key | None,
    folder: str,
    serving: ServingSettings,
    relations: Mapping[str, tuple[Relation, ...]] | None = None,
) -> serve.Application:
    """The Serve application of a reward, not yet started. `serving` gives the delays of its autoscaling."""
    kind, environment = term.kind_of(name), term.runtime_env
    if kind in SCORERS:
        environment = runtime_env_of(kind, term.packages, environment)
    replica = serve.deployment(
        autoscaling_config=autoscaling_config(term.min_replicas, term.max_replicas, serving),
        ray_actor_options=actor_options(term.threads, term.cpus, term.gpus, term.node_group, environment),
        max_ongoing_requests=serving.max_ongoing_requests,
    )
    return replica(RewardReplica).bind(name, term, token, folder, relations or {})

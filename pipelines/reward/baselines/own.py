"""Your own rewards as baselines, by their names in section `rewards`: a function, a class, or a service."""

from __future__ import annotations

import asyncio
import hashlib
import inspect
import json
from collections.abc import Iterator, Sequence

import numpy as np

from actors.rewards.base import Reward
from actors.rewards.opening import open_reward
from actors.services.keys import Key
from actors.types import Scores
from conf.baselines import BaselinesSettings
from conf.rewards import RewardTerm
from conf.settings import Settings
from pipelines.common.reward_sources import check_import_path, module_file, service_token
from pipelines.reward.data import Pair
from pipelines.reward.predictions import PairPredictions


class OwnRewardJudge:
    """Orders the images of a pair by their scores. There is no answer if one of them has no score."""

    def __init__(self, reward: Reward, batch_images: int) -> None:
        """`batch_images`: of one call, which have one size. It is even, so that a call has both images of a pair."""
        self._reward, self._batch = reward, batch_images
        self._runner = asyncio.Runner()  # one event loop for all calls: the client of a service belongs to it

    def judge(self, pairs: Sequence[Pair]) -> PairPredictions:
        """Margins are score differences. Raises what the reward raises."""
        images = [image for pair in pairs for image in (pair.image_w, pair.image_l)]
        prompts = [pair.prompt for pair in pairs for _ in range(2)]
        values = np.full(len(images), np.nan, np.float32)
        for numbers in self._calls(images):
            scores = self._score(np.stack([images[i] for i in numbers]), [prompts[i] for i in numbers])
            values[numbers] = self._runner.run(scores).mu
        return PairPredictions(values[0::2] - values[1::2], np.zeros(len(pairs), bool))

    def _calls(self, images: Sequence[np.ndarray]) -> Iterator[list[int]]:
        """The numbers of the images of each call."""
        of_size: dict[tuple[int, ...], list[int]] = {}
        for number, image in enumerate(images):
            of_size.setdefault(image.shape, []).append(number)
        for numbers in of_size.values():
            yield from (numbers[first : first + self._batch] for first in range(0, len(numbers), self._batch))

    async def _score(self, images: np.ndarray, prompts: Sequence[str]) -> Scores:
        scores = self._reward.score(images, prompts)
        return await scores if inspect.isawaitable(scores) else scores


def open_own_baseline(name: str, settings: Settings, token: Key, folder: str) -> OwnRewardJudge:
    """Opens the reward in this process. `token`: of its service. `folder`: where your own modules are found, too."""
    term = settings.own_rewards()[name]
    reward = open_reward(name, term, token if term.token_variable else None, folder, {})
    return OwnRewardJudge(reward, 2 * max(1, settings.baselines.batch_images // 2))


def place_of(name: str, settings: Settings) -> BaselinesSettings | RewardTerm:
    """Whose threads and GPUs a baseline has: those of your own reward, or of section `baselines`."""
    return settings.own_rewards().get(name, settings.baselines)


def require_own_reward(name: str, term: RewardTerm) -> None:
    """Raises SettingsError if the code is not there, or the token of the service is not set."""
    service_token(name, term)
    if term.path:
        check_import_path(name, term.path)


def identity(term: RewardTerm) -> str:
    """What decides the scores, as far as it can be known here: the settings, and the source of the module."""
    file = module_file(term.path.partition(":")[0]) if term.path else None
    source = hashlib.sha256(file.read_bytes()).hexdigest() if file else ""
    return json.dumps([term.deciding(), source], sort_keys=True)

"""Your own reward: a function or a class that is found by its import path."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
import traceback
from collections.abc import Awaitable, Generator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import numpy as np

from actors.reward_input import InputError, check_inputs
from actors.rewards.errors import RewardError
from actors.types import Scores


class PythonReward:
    """Calls a function `f(images, prompts)`, or the method `score(images, prompts)` of a class, which is made once.

    Both get uint8 [H, W, 3] images and as many texts, and return one number per image, or `Scores`. NaN and None mark
    an image without a score.
    """

    def __init__(self, name: str, path: str, folder: str = "") -> None:
        """`name`: of the reward, for messages. `path`: "package.module:name". `folder`: where modules are found, too.

        Raises RewardError if there is no such module, function or class.
        """
        self._what = f"rewards.{name}.path={path}"
        for place in (os.getcwd(), folder):
            if place and place not in sys.path:
                sys.path.insert(0, place)
        module, _, attribute = path.partition(":")
        with self._blaming("cannot be loaded"):
            found: Any = getattr(importlib.import_module(module), attribute)
            if inspect.isclass(found):
                found = cast(Any, found)().score
        if not callable(found):
            raise RewardError(f"{self._what} must be a function, or a class with a method score, got {type(found)}")
        self._score: Any = found

    def score(self, images: np.ndarray | Sequence[np.ndarray], prompts: Sequence[str]) -> Scores | Awaitable[Scores]:
        """See Reward. Raises RewardError for a result that is not one number per image, and for what your code raises.

        An InputError of your code stays what it is, see Reward.
        """
        check_inputs(images, prompts)
        with self._blaming("failed"):
            result = self._score(images, list(prompts))
        if inspect.isawaitable(result):
            return self._awaited(result, len(prompts))
        return read_result(result, len(prompts), self._what)

    async def _awaited(self, result: Awaitable[object], count: int) -> Scores:
        with self._blaming("failed"):
            found = await result
        return read_result(found, count, self._what)

    @contextmanager
    def _blaming(self, event: str) -> Generator[None]:
        """Turns what your code raises into a RewardError with its line. The cause stays: it may be a device fault."""
        try:
            yield
        except InputError:
            raise
        except Exception as error:  # the boundary to your code
            at = traceback.extract_tb(error.__traceback__)[-1]
            reason = f"{type(error).__name__}: {error!s:.300} ({at.filename}:{at.lineno})"
            raise RewardError(f"{self._what} {event} with {reason}: correct it") from error


def read_result(result: object, count: int, what: str) -> Scores:
    """The scores in what a reward returned for `count` images. Raises RewardError, which starts with `what`."""
    if isinstance(result, Scores):
        return Scores(_numbers(result.mu, count, f"{what}: mu"), _numbers(result.sigma, count, f"{what}: sigma"))
    return Scores(_numbers(result, count, what), np.zeros(count, np.float32))


def _numbers(values: Any, count: int, what: str) -> np.ndarray:
    """Float32 [count]. None is NaN."""
    if hasattr(values, "detach"):  # a tensor of torch
        values = values.detach().float().cpu().numpy()
    try:
        numbers = np.asarray(values, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise RewardError(f"{what} must return numbers, one per image, got {values!r:.100}: {error}") from error
    if numbers.shape != (count,):
        raise RewardError(
            f"{what} must return one number per image, i.e. shape [{count}], got shape {list(numbers.shape)}: return a "
            "list of numbers in the order of the images"
        )
    return numbers

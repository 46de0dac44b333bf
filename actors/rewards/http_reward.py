"""A reward behind HTTP: POST of images and prompts, answered with scores. `reward serve` speaks the same contract.

{"images": ["<base64 PNG>", ...], "prompts": ["a red circle left of a blue square", ...]}
-> {"mu": [3.1, null, ...], "sigma": [0.2, 0.1, ...]}

`sigma` may be left out. null marks an image without a score. docs/rewards.md states the limits.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np

from actors.images import png_base64
from actors.reward_input import check_inputs
from actors.rewards.errors import RewardError
from actors.rewards.python_reward import read_result
from actors.services.backoff import is_temporary, wait_seconds
from actors.services.keys import Key
from actors.services.responses import retry_after_seconds
from actors.services.transport import UnfitAnswerError, http_client, http_errors
from actors.types import Scores
from conf.rewards import MAX_REQUEST_BYTES, RewardTerm

_MAX_WAIT_S = 30.0


class HttpReward:
    """Sends `batch_images` images a request, at most MAX_REQUEST_BYTES, and repeats requests that are not answered."""

    def __init__(self, name: str, term: RewardTerm, token: Key | None, max_body: int = MAX_REQUEST_BYTES) -> None:
        """`name`: of the reward, for messages. `token`: sent as a bearer token, and never logged."""
        self._what, self._term, self._max_body = f"rewards.{name}.url={term.url}", term, max_body
        self._token = token
        self._headers = {"Authorization": f"Bearer {token.value}"} if token else {}
        self._client: Any = http_client(term.timeout)

    async def score(self, images: np.ndarray | Sequence[np.ndarray], prompts: Sequence[str]) -> Scores:
        """See Reward. The images of a request that was not answered after all retries have no score.

        Raises RewardError if the service refuses a request, or answers something else than the contract says.
        """
        check_inputs(images, prompts)
        encoded = await asyncio.to_thread(lambda: [png_base64(image) for image in images])
        parts = [await self._score(files, texts) for files, texts in self._requests(encoded, prompts)]
        return Scores(
            np.concatenate([np.zeros(0, np.float32), *(part.mu for part in parts)]),
            np.concatenate([np.zeros(0, np.float32), *(part.sigma for part in parts)]),
            retries=sum(part.retries for part in parts),
        )

    def _requests(self, files: Sequence[str], prompts: Sequence[str]) -> list[tuple[list[str], list[str]]]:
        """Cuts images and prompts into requests. Raises RewardError for an image that no request can hold."""
        requests: list[tuple[list[str], list[str]]] = []
        size = self._max_body
        for file, prompt in zip(files, prompts, strict=True):
            bytes_needed = len(file) + 6 * len(prompt) + 100  # a character of a prompt is \\uXXXX at most
            if bytes_needed > self._max_body:
                raise RewardError(f"{self._what}: an image of {len(file)} bytes exceeds a request's {self._max_body}")
            if size + bytes_needed > self._max_body or len(requests[-1][0]) == self._term.batch_images:
                requests.append(([], []))
                size = 0
            size += bytes_needed
            requests[-1][0].append(file)
            requests[-1][1].append(prompt)
        return requests

    async def _score(self, files: list[str], prompts: list[str]) -> Scores:
        body, retries = {"images": files, "prompts": prompts}, 0
        while True:
            reason, wait = "", 0.0
            try:
                async with asyncio.timeout(self._term.timeout):
                    response = await self._client.post(self._term.url, json=body, headers=self._headers)
            except UnfitAnswerError as error:
                raise RewardError(f"{self._what}: {error}: correct the service") from None
            except http_errors() as error:
                reason = type(error).__name__
            else:
                text = self._without_token(response.text)
                if response.status_code == 200:
                    scores = self._read(text, len(prompts))
                    return Scores(scores.mu, scores.sigma, retries=retries)
                reason, wait = f"status {response.status_code}", retry_after_seconds(response.headers)
                if not is_temporary(response.status_code):
                    fix = self._without_token(self._fix(response.status_code, response.headers))
                    raise RewardError(f"{self._what} refuses a request with {reason}: {text[:200]!r}: {fix}")
            if retries == self._term.retries:
                logging.getLogger(__name__).warning("%s: %d images have no score: %s", self._what, len(files), reason)
                nothing = np.full(len(files), np.nan, np.float32)
                return Scores(nothing, np.zeros_like(nothing), retries=retries)
            await asyncio.sleep(wait_seconds(retries, _MAX_WAIT_S, wait))
            retries += 1

    def _without_token(self, text: str) -> str:
        """A text of the service, which may repeat what it was sent."""
        return text.replace(self._token.value, "***") if self._token else text

    def _fix(self, status: int, headers: Mapping[str, str]) -> str:
        """What to do about a refusal."""
        if status in (401, 403):
            sent = f"correct the token in ${self._term.token_variable}" if self._token else "set token_variable"
            return f"{sent} of this reward, if the service needs one"
        if 300 <= status < 400:
            return (
                f"redirects are not followed, so set url to the address itself, {headers.get('location', '')[:200]!r}"
            )
        return "correct url, or the service, so that it keeps to the contract in docs/rewards.md"

    def _read(self, text: str, count: int) -> Scores:
        """The scores in an answer. Raises RewardError."""
        try:
            answer: Any = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise RewardError(f"{self._what} must answer JSON, got {text[:100]!r}") from error
        if not isinstance(answer, dict) or "mu" not in answer:
            raise RewardError(f'{self._what} must answer {{"mu": [number, ...]}}, got {text[:100]!r}')
        values = cast("dict[str, Any]", answer)
        mu = read_result(values["mu"], count, f"{self._what}: mu").mu
        return Scores(mu, read_result(values.get("sigma", [0.0] * count), count, f"{self._what}: sigma").mu)

"""Answers POST /score: reads the body, decodes its images and calls the replicas, for many clients that may be hostile.

One client cannot take the place of another one: a body has a deadline, a request takes a place in the queue when its
body is complete, and what all requests hold in memory is bounded. Parsing and decoding run in threads.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import time
from collections import deque
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from fastapi import Request
from ray.exceptions import RayActorError, RayTaskError
from ray.serve.exceptions import BackPressureError, ReplicaUnavailableError
from ray.serve.handle import DeploymentHandle
from starlette.requests import ClientDisconnect

from actors.images import ImageError
from actors.reward_input import InputError
from actors.services.keys import Key
from actors.spatialscore.calibration import win_probabilities
from actors.types import Scores
from actors.workers.score_body import Refused, content_kind, decode_images, parse_body
from conf.rewards import MAX_REQUEST_BYTES

RETRY_AFTER_S: Final = 2
_SMALL_BODY: Final = 2**20
_SMALL_PIXELS: Final = 4 * 10**6
_BYTES_OF_PIXEL: Final = 3
_LOG_LINES: Final = 1000  # answers that are kept until somebody reads them


@dataclass(frozen=True)
class ServiceLimits:
    """What the requests in progress may take. All clients share it."""

    places: int
    """Requests whose body is complete and that are not answered yet."""
    shrink_to: int
    """An image with more pixels is scaled down while it is decoded."""
    body_seconds: float = 30.0
    """A body must be complete after this time."""
    silent_seconds: float = 5.0
    """A body must not pause for longer."""
    body_bytes: int = 16 * MAX_REQUEST_BYTES
    """Of all bodies."""
    pixel_bytes: int = 512 * 2**20
    """Of all decoded images."""


@dataclass(frozen=True)
class Answer:
    """One answered request, for the log of the service."""

    client: str
    status: int
    images: int
    seconds: float
    reason: str = ""  # why it was refused; ""

    def __str__(self) -> str:
        what = self.reason or f"{self.images} image{'s' * (self.images != 1)}"
        return f"{self.client}  {self.status}  {self.seconds:.2f} s  {what}"


@dataclass(frozen=True)
class ScoredImages:
    """The scores of a request's images."""

    mu: np.ndarray  # [B] float32
    sigma: np.ndarray  # [B]
    win_probability: np.ndarray  # [B], see `win_probabilities`; NaN if the model was not calibrated


class Held:
    """How much of a limit the requests in progress hold."""

    def __init__(self, limit: int, reason: str) -> None:
        """`reason`: of the refusal if a request would exceed the limit."""
        self._limit, self._reason, self.amount = limit, reason, 0

    @contextmanager
    def hold(self, amount: int = 0) -> Generator[Share]:
        """Holds `amount`, and what the share adds to it, inside the block. Raises Refused if it exceeds the limit."""
        share = Share(self)
        try:
            share.add(amount)
            yield share
        finally:
            self.amount -= share.amount

    def take(self, amount: int) -> None:
        """Adds to what is held. Raises Refused, and adds nothing, if that exceeds the limit."""
        if self.amount + amount > self._limit:
            raise busy(self._reason)
        self.amount += amount


class Share:
    """What one request holds."""

    def __init__(self, held: Held) -> None:
        self._held, self.amount = held, 0

    def add(self, amount: int) -> None:
        """See Held.take."""
        self._held.take(amount)
        self.amount += amount


def busy(reason: str) -> Refused:
    """The refusal of a request that may be sent again."""
    return Refused(
        503, f"{reason}: send the same request again after {RETRY_AFTER_S} s", {"Retry-After": str(RETRY_AFTER_S)}
    )


class ScoreService:
    """Turns requests into scores. It runs on one event loop."""

    def __init__(
        self,
        scorer: DeploymentHandle[Any],
        token: Key | None,
        limits: ServiceLimits,
        temperature: float | None = None,
    ) -> None:
        """`temperature`: of the model's calibration; None if there is none."""
        self._scorer, self._token, self._limits, self._temperature = scorer, token, limits, temperature
        # Small requests have a thread of their own, so that they do not wait for seconds behind large ones.
        self._small, self._large = ThreadPoolExecutor(1), ThreadPoolExecutor(1)
        self._places = Held(limits.places, "all replicas are busy and the queue is full")
        self._bodies = Held(limits.body_bytes, "too many bodies arrive at once")
        self._pixels = Held(limits.pixel_bytes, "too many images wait for a replica")
        self._answers: deque[Answer] = deque(maxlen=_LOG_LINES)

    async def answer(self, request: Request) -> ScoredImages:
        """The scores that a request asks for.

        Raises Refused: 401 without the token, 408 if the body comes too slowly, another 4xx if the request cannot be
        scored, 503 if the same request may be sent again later, 500 if scoring failed. Its text tells the reason.
        """
        started, client = time.monotonic(), request.client.host if request.client else "?"
        line = Answer(client, 499, 0, 0.0, "the client left")
        try:
            scores = await self._answer(request)
            line = replace(line, status=200, images=len(scores.mu), reason="")
            return scores
        except Refused as refused:
            line = replace(line, status=refused.status, reason=refused.reason)
            raise
        finally:
            self._answers.append(replace(line, seconds=time.monotonic() - started))

    def take_answers(self) -> list[Answer]:
        """The requests that were answered since the last call, the newest 1000 at most."""
        answers = list(self._answers)
        self._answers.clear()
        return answers

    async def _answer(self, request: Request) -> ScoredImages:
        check_token(request, self._token)
        check_length(request)
        content_type = request.headers.get("content-type", "")
        content_kind(content_type)
        with self._bodies.hold() as body_share:
            body = await self._read(request, body_share)
            with self._places.hold(1):
                threads = self._small if len(body) <= _SMALL_BODY else self._large
                parsed = await _in_thread(threads, parse_body, body, content_type)
                del body
                threads = threads if sum(parsed.pixels) <= _SMALL_PIXELS else self._large
                shrunk = [min(count, self._limits.shrink_to) for count in parsed.pixels]
                with self._pixels.hold(_BYTES_OF_PIXEL * sum(shrunk)):
                    images = await _in_thread(threads, decode_images, parsed, self._limits.shrink_to)
                    prompts = parsed.prompts
                    del parsed  # the files
                    return self._rated(await self._score(images, prompts), prompts)

    def _rated(self, scores: Scores, prompts: list[str]) -> ScoredImages:
        if self._temperature is None:
            return ScoredImages(scores.mu, scores.sigma, np.full(len(prompts), np.nan, np.float32))
        return ScoredImages(scores.mu, scores.sigma, win_probabilities(scores.mu, prompts, self._temperature))

    async def _read(self, request: Request, share: Share) -> bytes:
        """The body. Raises Refused if it is too long or too slow, or if all bodies together are too long."""
        limits, chunks, stream = self._limits, list[bytes](), request.stream()
        try:
            async with asyncio.timeout(limits.body_seconds):
                while True:
                    async with asyncio.timeout(limits.silent_seconds):
                        chunk = await anext(stream, None)
                    if chunk is None:
                        return b"".join(chunks)
                    share.add(len(chunk))
                    if share.amount > MAX_REQUEST_BYTES:
                        raise _too_long(share.amount)
                    chunks.append(chunk)
        except TimeoutError:
            raise Refused(
                408,
                f"the body must arrive within {limits.body_seconds:g} s, without a pause of {limits.silent_seconds:g} "
                f"s, got {share.amount} bytes of it: send fewer images, or use a faster connection",
            ) from None
        except ClientDisconnect:
            raise Refused(400, "the client left before its body was complete") from None

    async def _score(self, images: Any, prompts: list[str]) -> Scores:
        try:
            return await self._scorer.score.remote(images, prompts)
        except BackPressureError as error:
            raise busy("all replicas are busy and the queue is full") from error
        except (RayActorError, ReplicaUnavailableError) as error:
            raise busy("the replica that scored this request died") from error
        except RayTaskError as error:  # what a replica raised for this request alone
            cause = getattr(error, "cause", None)
            if isinstance(cause, (InputError, ImageError)):
                raise Refused(422, str(cause)) from error
            logging.getLogger("ray.serve").exception("scoring a request failed")
            raise Refused(500, f"scoring this request failed with {type(cause).__name__}: see Serve's log") from error


async def _in_thread(threads: ThreadPoolExecutor, function: Any, *arguments: Any) -> Any:
    return await asyncio.get_running_loop().run_in_executor(threads, function, *arguments)


def check_token(request: Request, token: Key | None) -> None:
    """Raises Refused unless the request has the token. Every wrong token takes the same time to compare."""
    scheme, _, sent = request.headers.get("authorization", "").partition(" ")
    if token is None or (scheme.lower() == "bearer" and hmac.compare_digest(sent.encode(), token.value.encode())):
        return
    raise Refused(
        401, "the token is missing or wrong: send Authorization: Bearer <token>", {"WWW-Authenticate": "Bearer"}
    )


def check_length(request: Request) -> None:
    """Raises Refused unless the request states the length of its body, and the body is short enough."""
    length = request.headers.get("content-length", "")
    if not (length.isascii() and length.isdigit()):
        raise Refused(411, "the header Content-Length is missing: send it")
    if len(length) > 18 or int(length) > MAX_REQUEST_BYTES:
        raise _too_long(length[:18])


def _too_long(length: object) -> Refused:
    return Refused(413, f"a request must have at most {MAX_REQUEST_BYTES} bytes, got {length}: send fewer images")

"""The elastic pool of SpatialScore replicas: a Ray Serve deployment, and the caller's side of it."""

from __future__ import annotations

import asyncio
import hashlib
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import ray
from ray import serve
from ray.exceptions import RayActorError
from ray.serve.config import AutoscalingConfig
from ray.serve.exceptions import BackPressureError, ReplicaUnavailableError
from ray.serve.handle import DeploymentHandle
from ray.serve.schema import ReplicaState

from actors.services.endpoint import key_in
from actors.spatialscore.scorer import SpatialScorer
from actors.types import Scores, require_texts
from actors.worker_setup import actor_options, init_worker
from conf.serving import ServingSettings

HEALTH_TOLERANCE = 1e-2
FIRST_WAIT_S, MAX_BACKOFF_S = 0.2, 8.0  # before a scoring call is made again


@dataclass(frozen=True)
class ScoreCall:
    """One call's images and texts, checked."""

    images: Sequence[np.ndarray]  # B of uint8 [H, W, 3]
    texts: Sequence[str]


class ScoreReplica:
    """One replica: a SpatialScorer whose forward passes gather several calls."""

    def __init__(self, model_dir: str, settings: ServingSettings) -> None:
        device = init_worker(settings.threads, settings.gpus)
        self._scorer = SpatialScorer.from_pretrained(
            model_dir, device=str(device), threads=settings.threads, batch_images=settings.batch_images
        )
        batching = cast(Any, self._score_batch)  # serve.batch gives the method these two
        batching.set_max_batch_size(settings.max_ongoing_requests)
        batching.set_batch_wait_timeout_s(settings.batch_wait_s)
        self._probe = np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3), dtype=np.uint8)
        self._known = self._health_score()
        self.check_health()

    async def score(self, images: np.ndarray | Sequence[np.ndarray], texts: Sequence[str]) -> Scores:
        """Scores image i against text i. `images`: uint8 [B, H, W, 3], which Ray fetches if it was a reference."""
        require_texts(images, texts)
        return await self._score_batch(ScoreCall(list(images), texts))

    @serve.batch
    async def _score_batch(self, calls: list[ScoreCall]) -> list[Scores]:
        """Waiting calls that fill less than half a forward pass, as one: forward passes then are full, whoever asks.

        A larger call, such as a group of the policy, goes alone: the last bits of its scores then are its own, and do
        not depend on what else was waiting. Killed runs end like undisturbed ones because of that.
        """
        alone = [2 * len(call.texts) >= self._scorer.batch_images for call in calls]
        small = [call for call, is_alone in zip(calls, alone, strict=True) if not is_alone]
        gathered = iter(await asyncio.to_thread(self._score, small))
        return [
            (await asyncio.to_thread(self._score, [call]))[0] if is_alone else next(gathered)
            for call, is_alone in zip(calls, alone, strict=True)
        ]

    def _score(self, calls: list[ScoreCall]) -> list[Scores]:
        images = [image for call in calls for image in call.images]
        texts = [text for call in calls for text in call.texts]
        if not texts:
            return [Scores(np.empty(0, np.float32), np.empty(0, np.float32)) for _ in calls]
        scores = self._scorer.score(images=images, prompts=texts)
        ends = np.cumsum([len(call.texts) for call in calls])[:-1]
        return [
            Scores(mu, sigma) for mu, sigma in zip(np.split(scores.mu, ends), np.split(scores.sigma, ends), strict=True)
        ]

    def check_health(self) -> None:
        """Scores a known image. Serve replaces a replica for which this raises: one whose forward pass fails, gives no
        number, or another than when it was loaded.
        """
        found = self._health_score()
        if not abs(found - self._known) <= HEALTH_TOLERANCE * max(1.0, abs(self._known)):  # false for NaN too
            raise RuntimeError(
                f"SpatialScore gives {found} for an image that it gave {self._known} when it was loaded: its weights "
                "hold no finite numbers, or have changed"
            )

    def _health_score(self) -> float:
        return float(self._scorer.score(images=self._probe, prompts=["health check"]).mu[0])


class RewardPool:
    """Scores through the pool. A call whose replica dies, or that finds the queue full, is made again.

    Scoring changes nothing, so this is safe.
    """

    def __init__(self, handle: DeploymentHandle, name: str, deployment: str, retries: int) -> None:
        self._handle, self._name, self._deployment, self._most = handle, name, deployment, retries
        self.retries = 0  # calls that had to be made again

    async def score(self, images: ray.ObjectRef | np.ndarray, texts: Sequence[str]) -> Scores:
        """Scores image i against text i. `images`: uint8 [B, H, W, 3]; by reference, pixels do not pass the caller.

        Raises ValueError for wrong images or texts, ray.exceptions.ObjectLostError where the referenced images are
        gone, and the last replica's error after `retries` attempts in vain.
        """
        attempt = 0
        while True:
            try:
                return await self._handle.score.remote(images, tuple(texts))
            except (BackPressureError, RayActorError, ReplicaUnavailableError):
                if attempt == self._most:
                    raise
                wait = min(MAX_BACKOFF_S, FIRST_WAIT_S * 2**attempt)
                attempt += 1
                self.retries += 1
                await asyncio.sleep(wait * random.uniform(0.5, 1.5))

    def replicas(self) -> int:
        """Number of replicas that are running now; 0 where somebody has removed the application."""
        application = serve.status().applications.get(self._name)
        status = application and application.deployments.get(self._deployment)
        return status.replica_states.get(ReplicaState.RUNNING, 0) if status else 0

    def stop(self) -> None:
        """Removes the pool from the cluster. Other Serve applications stay."""
        serve.delete(self._name)


def deployment(model_dir: str, settings: ServingSettings) -> serve.Application:
    """The pool's Serve application, not yet started: also what `serve build` and a KubeRay RayService can use."""
    options = actor_options(settings.threads, settings.cpus, settings.gpus, settings.node_group, settings.runtime_env)
    replica = serve.deployment(
        ScoreReplica,
        name=ScoreReplica.__name__,
        ray_actor_options=options,
        autoscaling_config=autoscaling_config(settings.min_replicas, settings.max_replicas, settings),
        max_ongoing_requests=settings.max_ongoing_requests,
        max_queued_requests=settings.max_queued_requests if settings.http else -1,  # -1: no limit
        max_replicas_per_node=cast(Any, settings.replicas_per_node or None),  # None: no limit
        health_check_period_s=10,
        health_check_timeout_s=60,
    )
    return replica.bind(model_dir, settings)


def autoscaling_config(least: int, most: int, settings: ServingSettings) -> AutoscalingConfig:
    """So many replicas, by the queue: a reward's own numbers, at the pace of `settings`."""
    return AutoscalingConfig(
        min_replicas=least,
        max_replicas=most,
        target_ongoing_requests=settings.target_ongoing_requests,
        upscale_delay_s=settings.upscale_delay_s,
        downscale_delay_s=settings.downscale_delay_s,
    )


def application_name(reward: str, owner: str) -> str:
    """A reward's name in Serve. `owner`, a run's folder, tells the rewards of two runs on one cluster apart."""
    return f"{reward}-{hashlib.sha256(owner.encode()).hexdigest()[:8]}"


def start_pool(settings: ServingSettings, model_dir: str, owner: str) -> RewardPool:
    """Starts the pool on the cluster that Ray is connected to, and waits until its first replicas answer.

    One that `owner`, a run's folder, left behind is taken over.

    With `settings.http` the same replicas also answer POST /score on `settings.host`:`settings.port`. Raises
    RuntimeError where this Ray's Serve runs without HTTP already: only its first start decides that; ValueError where
    `settings.token_variable` is not set in the environment.
    """
    name = application_name("spatialscore", owner)
    application = deployment(model_dir, settings)
    if not settings.http:
        return serve_replicas(application, name, ScoreReplica.__name__, settings.retries)
    from actors.workers.reward_http import ScoreHttp  # FastAPI, only where it is asked for

    token = key_in(settings.token_variable, "the token of serving.http") if settings.token_variable else None
    taken = settings.max_replicas * settings.max_ongoing_requests + settings.max_queued_requests
    front = ScoreHttp.options(  # takes more than the replicas do, so that what is too much gets a reason
        max_ongoing_requests=2 * taken, max_queued_requests=settings.max_queued_requests
    )
    _start_serve(settings)
    if not serve.status().proxies:
        raise RuntimeError(
            "serving.http=true needs Ray Serve with HTTP, but Serve runs on this Ray without it: stop it with "
            "`serve shutdown` (a policy run uses it), or start a Ray of its own with ray_address=local"
        )
    serve.run(front.bind(application, token), name=name, route_prefix="/")
    handle = serve.get_deployment_handle(ScoreReplica.__name__, app_name=name)
    return RewardPool(handle, name, ScoreReplica.__name__, settings.retries)


def _start_serve(settings: ServingSettings) -> None:
    """Starts Serve with HTTP. A proxy that is slow to come is replaced by Serve, and fails its caller: called again."""
    for attempt in range(settings.retries + 1):
        try:
            serve.start(http_options={"host": settings.host, "port": settings.port})
            return
        except (RayActorError, TimeoutError):
            if attempt == settings.retries:
                raise
            time.sleep(min(MAX_BACKOFF_S, FIRST_WAIT_S * 2**attempt))


def serve_replicas(application: serve.Application, name: str, deployment: str, retries: int) -> RewardPool:
    """Runs an application, whose one deployment has a `score`, without HTTP, and waits until it answers."""
    serve.start(proxy_location="Disabled")
    return RewardPool(serve.run(application, name=name, route_prefix=None), name, deployment, retries)

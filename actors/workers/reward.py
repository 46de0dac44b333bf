"""The reward pool: replicas of a SpatialScore in Ray Serve, and the client that calls them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import ray
from ray import serve
from ray.exceptions import RayActorError
from ray.serve.config import AutoscalingConfig
from ray.serve.exceptions import BackPressureError, ReplicaUnavailableError
from ray.serve.handle import DeploymentHandle
from ray.serve.schema import ReplicaState

from actors.reward_input import check_inputs
from actors.rewards.errors import RewardError
from actors.services.backoff import wait_seconds
from actors.types import Scores
from actors.worker_setup import actor_options, init_worker
from actors.workers.application_guard import owner_digest
from actors.workers.faults import ends_on_device_fault
from actors.workers.score_calls import CallScorer, ScoreCall
from actors.workers.serve_start import run_application
from conf.serving import ServingSettings

HEALTH_TOLERANCE = 1e-2
"""Relative change of the health check's score from which a replica counts as broken."""

FIRST_WAIT_S, MAX_BACKOFF_S = 0.2, 8.0  # before a scoring call is retried


@ends_on_device_fault("reward", survives=("out_of_memory",))  # a client's call may be too large
class ScoreReplica:
    """One replica: a SpatialScorer whose forward passes combine several calls."""

    def __init__(self, model_dir: str, settings: ServingSettings) -> None:
        from actors.spatialscore.scorer import SpatialScorer  # drivers and replicas of other rewards need no models

        device = init_worker(settings.threads, settings.gpus)
        self.scorer = SpatialScorer.from_pretrained(
            model_dir, device=str(device), threads=settings.threads, batch_images=settings.batch_images
        )
        self._calls = CallScorer(self.scorer)
        batching = cast(Any, self._score_batch)  # serve.batch adds the two setters below
        batching.set_max_batch_size(settings.max_ongoing_requests)
        batching.set_batch_wait_timeout_s(settings.batch_wait_s)
        image = np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3), dtype=np.uint8)
        # Made once: the tokenizer may be in use by a batch when Serve asks for the health.
        self._health_batch = self.scorer.model.processor(image, ["health check"])
        self._score_at_start = self._health_score()
        self.check_health()

    async def score(self, images: np.ndarray | Sequence[np.ndarray], prompts: Sequence[str]) -> Scores:
        """Scores image i under prompt i. `images`: uint8 [B, H, W, 3]; Ray resolves a reference to them.

        Raises what the scorer raises for these images and prompts, and nothing that other calls are the reason for.
        """
        check_inputs(images, prompts)
        call = ScoreCall(list(images), prompts)
        # A batch answers all of its callers at its end, and the learner waits for the first group of an iteration.
        alone = self._calls.is_large(call)
        outcome = await (self._calls.score_alone(call) if alone else self._score_batch(call))
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    @serve.batch
    async def _score_batch(self, calls: list[ScoreCall]) -> list[Scores | Exception]:
        return await self._calls.score_together(calls)

    def check_health(self) -> None:
        """Raises if the forward pass fails, or gives another score, or NaN, for the image that was scored at the start.

        Serve calls it, and replaces a replica for which it raises.
        """
        score, at_start = self._health_score(), self._score_at_start
        if not abs(score - at_start) <= HEALTH_TOLERANCE * max(1.0, abs(at_start)):  # false for NaN too
            raise RuntimeError(
                f"SpatialScore gives the health check's image {score}, and gave it {at_start} when it was loaded: its "
                "weights are not finite or have changed"
            )

    def _health_score(self) -> float:
        return float(self.scorer.score_batch(self._health_batch).mu[0])


class RewardPool:
    """Calls a reward's replicas, and retries a call if its replica dies or the queue is full.

    A retry is safe, because scoring has no side effects.
    """

    def __init__(
        self, handle: DeploymentHandle[Any], name: str, deployment: str, max_retries: int, beside: Sequence[str] = ()
    ) -> None:
        """`name`: of the Serve application, `beside`: of those that end with it. `deployment`: the one that scores."""
        self._handle, self._name, self._deployment, self._max_retries = handle, name, deployment, max_retries
        self._beside = tuple(beside)
        self.retries = 0  # calls that were retried so far

    async def score(self, images: ray.ObjectRef[np.ndarray] | np.ndarray, prompts: Sequence[str]) -> Scores:
        """Scores image i under prompt i. `images`: uint8 [B, H, W, 3], or a reference to them.

        With a reference the pixels do not pass through the caller. Raises ValueError for wrong images or prompts,
        RewardError if the reward breaks its contract, ray.exceptions.ObjectLostError if the referenced images are lost,
        and the last replica's error after all retries.
        """
        attempt = 0
        while True:
            try:
                scores = await self._handle.score.remote(images, tuple(prompts))
                self.retries += scores.retries
                return scores
            except RewardError as error:  # without the traceback of the replica
                raise RewardError(str(getattr(error, "cause", error))) from None
            except (BackPressureError, RayActorError, ReplicaUnavailableError):
                if attempt == self._max_retries:
                    raise
                wait = wait_seconds(attempt, MAX_BACKOFF_S, first=FIRST_WAIT_S)
                attempt += 1
                self.retries += 1
                await asyncio.sleep(wait)

    def replicas(self) -> int:
        """Number of running replicas; 0 if the application was removed."""
        return self.replica_counts()[0]

    def replica_counts(self) -> tuple[int, int]:
        """Number of running replicas, and of those that start or wait for a node; 0 if the application was removed."""
        application = serve.status().applications.get(self._name)
        status = application and application.deployments.get(self._deployment)
        states = status.replica_states if status else {}
        return states.get(ReplicaState.RUNNING, 0), states.get(ReplicaState.STARTING, 0)

    def stop(self) -> None:
        """Removes the pool from the cluster. Other Serve applications stay."""
        for name in (*self._beside, self._name):
            serve.delete(name)


def deployment(model_dir: str, settings: ServingSettings) -> serve.Application:
    """The pool's Serve application, not yet started. `serve build` and a KubeRay RayService can use it too."""
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
        graceful_shutdown_wait_loop_s=0.2,  # Serve waits 2 s even for an idle replica otherwise
    )
    return cast(Any, replica).bind(model_dir, settings)


def autoscaling_config(min_replicas: int, max_replicas: int, settings: ServingSettings) -> AutoscalingConfig:
    """Autoscaling by queue length between these numbers of replicas. `settings` gives the delays."""
    return AutoscalingConfig(
        min_replicas=min_replicas,
        max_replicas=max_replicas,
        target_ongoing_requests=settings.target_ongoing_requests,
        upscale_delay_s=settings.upscale_delay_s,
        downscale_delay_s=settings.downscale_delay_s,
    )


def application_name(reward: str, owner: str) -> str:
    """A reward's name in Serve. `owner`, a run directory, separates the rewards of two runs on one cluster."""
    return f"{reward}-{owner_digest(owner)}"


def start_pool(settings: ServingSettings, model_dir: str, owner: str) -> RewardPool:
    """Starts the pool on the connected cluster, and waits until its first replicas answer.

    A pool that an earlier process of the same `owner`, a run directory, left behind is taken over. With `settings.http`
    the same replicas also answer POST /score on `settings.host`:`settings.port`.
    Raises the errors of `start_http_pool`.
    """
    if not settings.http:
        name = application_name("spatialscore", owner)
        return serve_replicas(deployment(model_dir, settings), name, ScoreReplica.__name__, settings.retries)
    from actors.workers.reward_serving import start_http_pool  # needs FastAPI

    return start_http_pool(settings, model_dir, owner)


def serve_replicas(application: serve.Application, name: str, deployment: str, max_retries: int) -> RewardPool:
    """Runs an application without HTTP and waits until it answers. Its deployment `deployment` has a `score` method.

    Raises what `run_application` raises.
    """
    serve.start(proxy_location="Disabled")
    return RewardPool(run_application(application, name, None), name, deployment, max_retries)

"""Starts the reward pool with HTTP: POST /score and GET /health as two applications of Ray Serve."""

from __future__ import annotations

from ray import serve

from actors.services.keys import Key, key_in
from actors.spatialscore.calibration import read_calibration
from actors.spatialscore.loading import read_config
from actors.workers.health_http import Health
from actors.workers.reward import RewardPool, ScoreReplica, application_name, deployment
from actors.workers.reward_http import ScoreHttp
from actors.workers.score_service import Answer, ServiceLimits
from actors.workers.serve_http import start_serve_http
from actors.workers.serve_start import run_application
from conf.serving import ServingSettings


def score_application(model_dir: str, settings: ServingSettings, token: Key | None) -> serve.Application:
    """POST /score in front of the replicas, not yet started. Its route prefix is "/"."""
    capacity = settings.max_replicas * settings.max_ongoing_requests + settings.max_queued_requests
    limits = ServiceLimits(places=capacity, shrink_to=read_config(model_dir).useful_pixels)
    calibration = read_calibration(model_dir)
    temperature = calibration.temperature if calibration else None
    return ScoreHttp.bind(deployment(model_dir, settings), token, limits, temperature)


def health_application() -> serve.Application:
    """GET /health, not yet started. Its route prefix is "/health"."""
    return Health.bind()


def start_http_pool(settings: ServingSettings, model_dir: str, owner: str) -> RewardPool:
    """Starts the pool and its HTTP service on `settings.host`:`settings.port`, and waits until both answer.

    Raises SettingsError if Serve already runs without HTTP on this Ray (only its first start decides that), or if the
    environment variable `settings.token_variable` is not set, and what `run_application` raises.
    """
    token = key_in(settings.token_variable, "the token of serving.http") if settings.token_variable else None
    name, health = application_name("spatialscore", owner), application_name("health", owner)
    start_serve_http(settings.host, settings.port, "serving.http=true")
    run_application(health_application(), health, "/health")
    run_application(score_application(model_dir, settings, token), name, "/")
    handle = serve.get_deployment_handle(ScoreReplica.__name__, app_name=name)
    return RewardPool(handle, name, ScoreReplica.__name__, settings.retries, beside=[health])


def answered_requests(owner: str) -> list[Answer]:
    """The requests that the HTTP service of `owner` answered since the last call."""
    handle = serve.get_deployment_handle(ScoreHttp.name, app_name=application_name("spatialscore", owner))
    return handle.take_answers.remote().result(timeout_s=10)

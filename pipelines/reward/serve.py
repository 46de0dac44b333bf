"""The run's SpatialScore over HTTP: `spatialt2i reward serve`, and as an application that a RayService keeps."""

from __future__ import annotations

import signal
import threading
from dataclasses import replace

from ray import serve

from actors.services.endpoint import key_in
from actors.workers.reward import deployment, start_pool
from conf import load
from conf.settings import Settings
from pipelines.reward.served_model import served_model

TOKEN_VARIABLE = "SPATIALSCORE_TOKEN"
"""Environment variable with the token that callers of `application` must bear."""


def serve_reward(settings: Settings) -> None:
    """Answers POST /score on `serving.host`:`serving.port`, and returns after SIGINT or SIGTERM. Ray must be initialised."""
    pool_settings = replace(settings.serving, http=True)
    # not the pool of a policy run in that folder, which ends with it
    pool = start_pool(pool_settings, served_model(settings), f"serve {settings.run_dir}")
    print(f"SpatialScore answers POST http://{pool_settings.host}:{pool_settings.port}/score", flush=True)
    stop = threading.Event()
    before = {number: signal.signal(number, lambda *_: stop.set()) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        stop.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        pool.stop()


def application(arguments: dict[str, str]) -> serve.Application:
    """What a Serve config file names as `pipelines.reward.serve:application`, with args `preset` and `run_dir`.

    It answers other machines, so callers must always bear the token in SPATIALSCORE_TOKEN. Raises as `key_in` does
    where that is not set, SettingsError for an unknown preset, and FileNotFoundError where the run has no SpatialScore.
    """
    from actors.workers.reward_http import (
        ScoreHttp,  # a deployment, made when it is imported: only where HTTP is asked for
    )

    settings = load(arguments["preset"], [f"run_dir={arguments['run_dir']}"])
    token = key_in(TOKEN_VARIABLE, "the token that callers of SpatialScore must bear")
    return ScoreHttp.bind(deployment(served_model(settings), settings.serving), token)

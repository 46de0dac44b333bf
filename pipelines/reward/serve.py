"""SpatialScore over HTTP: `spatialt2i reward serve`, and the Serve application that a KubeRay RayService deploys."""

from __future__ import annotations

import signal
import threading
from dataclasses import replace

from ray import serve

from actors.services.keys import key_in
from actors.workers.reward import deployment, start_pool
from conf import load
from conf.settings import Settings
from pipelines.reward.served_model import served_model

TOKEN_VARIABLE = "SPATIALSCORE_TOKEN"
"""Environment variable with the token that callers of `application` must send."""


def serve_reward(settings: Settings) -> None:
    """Answers POST /score on `serving.host`:`serving.port` until SIGINT or SIGTERM. Ray must be initialized.

    Raises UserError if the run has no SpatialScore, and the errors of `start_pool`.
    """
    serving = replace(settings.serving, http=True)
    owner = f"serve {settings.run_dir}"  # separate from the pool of a policy run, which stops with that run
    pool = start_pool(serving, served_model(settings), owner)
    print(f"SpatialScore answers POST http://{serving.host}:{serving.port}/score", flush=True)
    stop = threading.Event()
    previous = {number: signal.signal(number, lambda *_: stop.set()) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        stop.wait()
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        pool.stop()


def application(arguments: dict[str, str]) -> serve.Application:
    """The application that a Serve config file names as `pipelines.reward.serve:application`.

    Its arguments are `preset` and `run_dir`. It answers other machines, so callers must send the token in
    SPATIALSCORE_TOKEN. Raises SettingsError if that variable is not set or the preset is unknown, UserError if the run
    has no SpatialScore.
    """
    # Importing the module creates a deployment, which only HTTP needs.
    from actors.workers.reward_http import ScoreHttp

    settings = load(arguments["preset"], [f"run_dir={arguments['run_dir']}"])
    token = key_in(TOKEN_VARIABLE, "the token that callers of SpatialScore must send")
    return ScoreHttp.bind(deployment(served_model(settings), settings.serving), token)

"""SpatialScore over HTTP: `spatialt2i reward serve`, and the Serve applications that a KubeRay RayService deploys."""

from __future__ import annotations

import time
from dataclasses import replace

from ray import serve
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException

from actors.services.keys import key_in
from actors.workers.reward import start_pool
from conf import load
from conf.settings import Settings
from pipelines.common import interrupt
from pipelines.common.cluster_address import uses_private_cluster
from pipelines.reward.guarded import guarded_applications
from pipelines.reward.served_model import served_model

TOKEN_VARIABLE = "SPATIALSCORE_TOKEN"
"""Environment variable with the token that callers of `application` must send."""

_LOG_SECONDS = 0.5  # between two looks at what was answered


def serve_reward(settings: Settings) -> None:
    """Answers POST /score on `serving.host`:`serving.port` until it is interrupted. Ray must be initialized.

    Prints a line for every request. Raises KeyboardInterrupt at the end, UserError if the run has no SpatialScore, and
    the errors of `start_pool`.
    """
    serving = replace(settings.serving, http=True)
    owner = f"serve {settings.run_dir}"  # separate from the pool of a policy run, which stops with that run
    model = served_model(settings)
    print(f"loading {model}: {serving.min_replicas} to {serving.max_replicas} replicas", flush=True)
    with guarded_applications(settings, owner):
        pool = start_pool(serving, model, owner)
        interrupt.catch_sigterm_again()
        try:
            print(f"SpatialScore answers POST http://{serving.host}:{serving.port}/score; Ctrl-C ends it", flush=True)
            while True:
                time.sleep(_LOG_SECONDS)
                _print_answers(owner)
        finally:
            print("stopping", flush=True)  # Ray takes seconds to end its processes
            if not uses_private_cluster(settings):  # a private one ends with this process, and Serve with it
                pool.stop()


def _print_answers(owner: str) -> None:
    """Prints one line for each request that was answered since the last call."""
    from actors.workers.reward_serving import answered_requests

    try:
        answers = answered_requests(owner)
    except (RayError, RayServeException, TimeoutError):  # Serve is replacing the process: its log is lost
        return
    for answer in answers:
        print(f"{time.strftime('%H:%M:%S')}  {answer}", flush=True)


def application(arguments: dict[str, str]) -> serve.Application:
    """The application that a Serve config file names as `pipelines.reward.serve:application`. Its route prefix is "/".

    Its arguments are `preset` and `run_dir`. It answers other machines, so callers must send the token in
    SPATIALSCORE_TOKEN. Raises SettingsError if that variable is not set or the preset is unknown, UserError if the run
    has no SpatialScore.
    """
    # Importing the module creates a deployment, which only HTTP needs.
    from actors.workers.reward_serving import score_application

    settings = load(arguments["preset"], [f"run_dir={arguments['run_dir']}"])
    token = key_in(TOKEN_VARIABLE, "the token that callers of SpatialScore must send")
    return score_application(served_model(settings), replace(settings.serving, http=True), token)


def health(_arguments: dict[str, str]) -> serve.Application:
    """The application for `pipelines.reward.serve:health`. Its route prefix is "/health"."""
    from actors.workers.reward_serving import health_application

    return health_application()

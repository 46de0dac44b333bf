"""Connects to the Ray cluster that a job runs on, or starts a local one."""

from __future__ import annotations

import logging
import os
from collections.abc import Generator
from contextlib import contextmanager

import ray

from conf import Settings

IN_A_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""Environment variable that Ray sets for the entrypoint of a submitted job."""


@contextmanager
def ray_session(settings: Settings) -> Generator[None]:
    """Inside the block, Ray is connected: to a private local cluster, or to the one at `settings.ray_address`.

    A private cluster ends with the block. On a shared cluster only the actors of this job are stopped. If Ray is
    connected already, this does nothing, so blocks can be nested.
    """
    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_worker_niceness", "0")  # Ray's default gives every other process priority
    for name in ("ray.data", "ray.serve", "ray.train", "ray._private"):
        logging.getLogger(name).setLevel(logging.ERROR)  # the stages print their own progress
    private = settings.ray_address == "local" and IN_A_JOB not in os.environ
    if private:
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # its warnings would hide the progress lines
        ray.init(
            address="local",
            num_cpus=settings.num_cpus or None,
            include_dashboard=settings.dashboard,
            log_to_driver=False,
            logging_level=logging.WARNING,
        )
    else:
        address = "auto" if settings.ray_address == "local" else settings.ray_address
        ray.init(address=address, log_to_driver=False, logging_level=logging.WARNING)
    try:
        yield
    finally:
        ray.shutdown()  # ends a private cluster, and Serve with it

"""Connects to the Ray cluster that a job runs on, or starts a local one."""

from __future__ import annotations

import logging
import os
from collections.abc import Generator
from contextlib import contextmanager

import ray
from ray.exceptions import AuthenticationError

from actors.workers import http_guard
from conf import Settings, UserError
from pipelines.common import interrupt, library_log
from pipelines.common.cluster_address import ADDRESS_FIX, check_address, uses_private_cluster
from pipelines.common.paths import run_paths
from pipelines.common.progress_line import ProgressLine

START_TIMEOUT = "timed out during startup"
"""A part of Ray's message if its processes are not up within 30 s, which cannot be set."""


@contextmanager
def ray_session(settings: Settings) -> Generator[None]:
    """Inside the block, Ray is connected: to a private local cluster, or to the one at `settings.ray_address`.

    A private cluster ends with the block. On a shared cluster only the actors of this job are stopped. If Ray is
    connected already, this does nothing, so blocks can be nested.

    Raises UserError if the cluster at `settings.ray_address` does not answer, or refuses this user.
    """
    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_worker_niceness", "0")  # Ray's default gives every other process priority
    os.environ.setdefault(http_guard.CALLBACK_VARIABLE, http_guard.CALLBACK)
    library_log.move(run_paths(settings).library_log)
    try:
        with ProgressLine("ray") as progress:
            _start(settings, progress)
        interrupt.catch_sigterm_again()
        yield
    finally:
        ray.shutdown()  # ends a private cluster, and Serve with it


def _start(settings: Settings, progress: ProgressLine) -> None:
    if not uses_private_cluster(settings):
        address = "auto" if settings.ray_address == "local" else settings.ray_address
        progress.phase(f"connecting to the cluster at {address}")
        connect(address)
        return
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # lines about nodes that end with the command
    progress.phase("starting on this machine")
    try:
        _start_here(settings)
    except UserError:
        progress.phase("starting once more: this machine is busy")
        _start_here(settings)


def _start_here(settings: Settings) -> None:
    """Starts a private cluster. Raises UserError if its processes are not up within the time that Ray gives them."""
    try:
        ray.init(
            address="local",
            num_cpus=settings.num_cpus or None,
            include_dashboard=settings.dashboard,
            log_to_driver=False,
            logging_level=logging.WARNING,
        )
    except Exception as error:  # Ray has no class for it
        if START_TIMEOUT not in str(error):
            raise
        ray.shutdown()
        raise UserError(
            "Ray must start within 30 s, and did not, in two attempts: this machine is too busy. End other programs, "
            "and call the command again"
        ) from error


def connect(address: str) -> None:
    """Connects to a running cluster. Raises UserError if that fails; its cause is Ray's error."""
    check_address(address)
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.WARNING)
    except (AuthenticationError, ConnectionError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"cannot connect to the Ray cluster at ray_address={address}: {reason} Fix: {ADDRESS_FIX}; if the "
            "cluster needs a token, set RAY_AUTH_TOKEN"
        ) from error

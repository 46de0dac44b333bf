"""Shared by all tests: one small Ray for the session, quiet and without authentication."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator

import pytest

os.environ.update(
    RAY_USAGE_STATS_ENABLED="0",
    RAY_AUTH_MODE="disabled",
    RAY_ADDRESS="local",
    RAY_worker_niceness="0",
    OMP_NUM_THREADS="1",
    RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH="actors.workers.http_guard.middlewares",
)

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    # A shell starts its jobs in the background so. Processes that the tests start and interrupt would inherit it.
    signal.signal(signal.SIGINT, signal.default_int_handler)


BEGIN_SLOW_UNTIL = "SPATIALT2I_BEGIN_SLOW_UNTIL"
"""The variable with the time, in seconds of the epoch, after which no slow test begins. .ci/run sets it."""


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skips the slow tests for which CI has no time left, so that it ends with their names instead of being cut off."""
    if item.get_closest_marker("slow") and time.time() > float(os.environ.get(BEGIN_SLOW_UNTIL, "inf")):
        pytest.skip("this machine is slow, and CI's hour is nearly over: run this test with `make test-slow`")


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """A private Ray with four logical CPUs, started once and stopped at the end."""
    import ray
    from ray import serve

    ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield
    serve.shutdown()
    ray.shutdown()
